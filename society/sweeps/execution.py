"""Carrying out a sweep: from its definition to its results, or on from where it stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import TextIO

from evals import report as reports
from society.runs import folder as folders
from society.runs.folder import RunFolder
from society.sweeps import checks, display, record, results
from society.sweeps.definition import Member, Sweep
from society.sweeps.processes import Running, carry_out, default_jobs
from society.terminal import stopping
from society.terminal.output import write_line
from store.errors import StoreError
from store.ledger import Store


def prepare(
    sweep: Sweep,
    source: str,
    allow_overlap: bool,
    stream: TextIO,
    skip: frozenset[str] = frozenset(),
) -> list[Member]:
    """Check everything, write down what the sweep is made of, and return what is left to be run.

    Raises what `checks.unfinished` raises, and nothing has been written then.
    """
    known = record.merged(record.read(sweep.folder), record.of(sweep, source))
    left = checks.unfinished(sweep, allow_overlap=allow_overlap, stream=stream, skip=skip)
    for member in left:
        folders.prepare(member.folder, member.config)
    record.write(sweep.folder, known)
    return left


def run(
    sweep: Sweep, left: Sequence[Member], jobs: int | None, options: Sequence[str], stream: TextIO
) -> list[Running]:
    """Run the members in `left`, each by `society run` with `options`; returns those that failed,
    each of them told on `stream`."""
    done = len(sweep.members) - len(left)
    already = f", {done} of them done before" if done else ""
    at_a_time = jobs or default_jobs(left)
    how = f"; {at_a_time} at a time{checks.budget(sweep)}" if left else ""
    write_line(stream, f"sweep {sweep.folder.name}: {len(sweep.members)} runs{already}{how}")

    def arguments(member: Member) -> list[str]:
        folder = member.folder
        return [
            *("run", str(folder.config), "--name", folder.name, "--runs", str(folder.path.parent)),
            *options,
        ]

    members = [Running(member) for member in left]
    with display.watch(stream, members) as look:
        stopping.run_until_stopped(carry_out(members, at_a_time, arguments, look), _end)
    failed = [running for running in members if running.state != "finished"]
    for running in failed:
        why = running.error() if running.state == "failed" else "stopped"
        write_line(stream, f"{running.member.folder.name} failed: {why}")
        write_line(stream, f"  all it has told is in {running.log}")
    return failed


async def _end(task: asyncio.Task[None]) -> None:
    """Stop the members that run, each as Ctrl-C would, and wait for them."""
    task.cancel()
    await asyncio.wait({task})


def conclude(sweep: Sweep, stream: TextIO) -> None:
    """Print the results of all runs there are, also of those that an earlier start asked for, and
    write one report over them."""
    known = record.read(sweep.folder)
    if known is None:
        return
    runs = sweep.folder.path.parent
    results.show(known, runs, stream)
    with ExitStack() as opened:
        stores = [store for store in _readable(known.folders(runs), opened) if store.run()]
        if stores:
            reports.write(stores, sweep.folder.report)
            write_line(stream, f"report: {sweep.folder.report}")


def _readable(members: Sequence[RunFolder], opened: ExitStack) -> Iterator[Store]:
    for member in members:
        with suppress(StoreError):
            yield opened.enter_context(Store.open(member.database, read_only=True))
