"""Running a sweep from its definition to its results, and what it shows meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TextIO

from rich.live import Live
from rich.table import Table
from rich.text import Text

from evals import report as reports
from society.runs import folder as folders
from society.runs import sweep_record
from society.runs.folder import RunFolder
from society.runs.status import read_progress
from society.sweeps import cost, definition, preflight, results
from society.sweeps.definition import Member, Sweep
from society.sweeps.processes import MemberState, RunningMember, choose_jobs, run_members
from society.terminal import signals
from society.terminal.output import Screen, one_line, write_line
from store.errors import StoreError
from store.ledger import Store


def prepare_sweep(
    sweep: Sweep,
    source: str,
    allow_overlap: bool,
    stream: TextIO,
    skip: frozenset[str] = frozenset(),
) -> list[Member]:
    """Check everything, write the sweep's record, and return the members that are left to run.

    Raises what `preflight.find_unfinished` raises, before anything is written.
    """
    # Merge before checking: a name with a changed meaning is an error like any other.
    known = definition.merge_records(
        sweep_record.read_record(sweep.folder), definition.record_sweep(sweep, source)
    )
    left = preflight.find_unfinished(sweep, allow_overlap=allow_overlap, stream=stream, skip=skip)
    for member in left:
        folders.prepare_run(member.folder, member.config)
    definition.write_record(sweep.folder, known)
    return left


def run_sweep(
    sweep: Sweep,
    left: Sequence[Member],
    jobs: int | None,
    run: Sequence[str],
    options: Sequence[str],
    stream: TextIO,
) -> list[RunningMember]:
    """Run the members in `left`, each in a process; print and return those that failed.

    `run` is the program that runs an experiment, `options` are the last arguments of every member.
    """
    done = len(sweep.members) - len(left)
    already = f", {done} of them done before" if done else ""
    at_a_time = jobs or choose_jobs(left)
    how = f"; {at_a_time} at a time{cost.format_budget(sweep)}" if left else ""
    write_line(stream, f"sweep {sweep.folder.name}: {len(sweep.members)} runs{already}{how}")

    def command(member: Member) -> list[str]:
        folder = member.folder
        return [
            *run,
            *(str(folder.config), "--name", folder.name, "--runs", str(folder.path.parent)),
            *options,
        ]

    # Finished members are not started; their results are read from their stores.
    members = [RunningMember(member) for member in left]
    with show_sweep_progress(stream, members) as refresh:
        work = run_members(members, at_a_time, command, refresh)
        signals.run_until_stopped(work, _cancel_members)
    failed = [running for running in members if running.state != "finished"]
    for running in failed:
        why = running.describe_failure() if running.state == "failed" else "stopped"
        write_line(stream, f"{running.member.folder.name} failed: {why}")
        write_line(stream, f"  its whole output is in {running.log}")
    return failed


async def _cancel_members(task: asyncio.Task[None]) -> None:
    """Stop the running members, each as Ctrl-C would, and wait for them."""
    task.cancel()
    await asyncio.wait({task})


def report_sweep(sweep: Sweep, stream: TextIO) -> None:
    """Print the results of all runs of the sweep, also of earlier starts, and write one report."""
    known = sweep_record.read_record(sweep.folder)
    if known is None:
        return
    runs = sweep.folder.path.parent
    results.show_results(known, runs, stream)
    with ExitStack() as opened:
        # A member that was never started has a database without a run.
        stores = [store for store in _open_readable(known.folders(runs), opened) if store.run()]
        if stores:
            reports.write_report(stores, sweep.folder.report)
            write_line(stream, f"report: {sweep.folder.report}")


def _open_readable(members: Sequence[RunFolder], opened: ExitStack) -> Iterator[Store]:
    for member in members:
        with suppress(StoreError):
            yield opened.enter_context(Store.open(member.database, read_only=True))


_MARKS: dict[MemberState, tuple[str, str]] = {
    "waiting": ("·", "dim"),
    "running": ("▸", "bold"),
    "finished": ("✓", "green"),
    "failed": ("✗", "bold red"),
    "stopped": ("■", "yellow"),
}
_MARGIN = 3


@contextmanager
def show_sweep_progress(
    stream: TextIO, members: Sequence[RunningMember]
) -> Iterator[Callable[[], None]]:
    """A function that shows how far the members are; call it a few times a second."""
    console = Screen(stream)
    if not console.is_terminal:
        yield SweepLines(stream, members)
        return
    # The display is refreshed by hand: a refresh thread would race with printing.
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield lambda: live.update(draw_members(members, console.height - _MARGIN), refresh=True)


class SweepLines:
    """Every line that a member prints, and its start and end, after the member's name."""

    def __init__(self, stream: TextIO, members: Sequence[RunningMember]) -> None:
        self._stream = stream
        self._members = members
        self._reported: dict[str, MemberState] = {}

    def __call__(self) -> None:
        for running in self._members:
            name = running.member.short
            if running.state == "waiting":
                # Its log has only lines of an earlier start.
                continue
            if name not in self._reported:
                self._tell(name, "started")
                self._reported[name] = "running"
            # Read the state before the log: no line may follow the one that says how it ended.
            state = running.state
            for line in running.read_new_lines():
                self._tell(name, line)
            if state != "running" and self._reported[name] != state:
                self._tell(name, state)
                self._reported[name] = state

    def _tell(self, name: str, line: str) -> None:
        write_line(self._stream, f"{name}: {line}")


def draw_members(members: Sequence[RunningMember], height: int) -> Table:
    """A line per member and a count; if they are too many, a line per running member only."""
    shown: Sequence[RunningMember] = members
    if len(members) > height:
        shown = [running for running in members if running.state == "running"][: max(1, height)]
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis")
    for running in shown:
        mark, style = _MARKS[running.state]
        table.add_row(
            Text(mark, style),
            Text(running.member.short, style),
            Text(_describe_member(running), "dim"),
        )
    counts = {state: sum(r.state == state for r in members) for state in _MARKS}
    table.add_row("", "", Text(", ".join(f"{n} {s}" for s, n in counts.items() if n)))
    return table


def _describe_member(running: RunningMember) -> str:
    if running.state == "failed":
        return one_line(running.describe_failure().split("\n")[0])
    if running.state != "running":
        return running.state
    record = read_progress(running.member.folder)
    return "starting" if record is None else one_line(record.line)
