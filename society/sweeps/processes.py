"""Members of a sweep as processes, some at a time.

The messages of a member go into `output.log` in its folder, so that none is lost when the sweep's
process is killed. Its final table is discarded, since the sweep prints one over all members.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from society.sweeps.definition import Member

MemberState = Literal["waiting", "running", "finished", "failed", "stopped"]
POLL_S = 0.2
_AT_ONCE_S = 10.0
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(slots=True)
class RunningMember:
    """One member and its state. `read_to` is how many bytes of its log have been shown."""

    member: Member
    state: MemberState = "waiting"
    read_to: int = 0
    started_at: int = 0
    status: int | None = None

    @property
    def log(self) -> Path:
        return self.member.folder.path / "output.log"

    def read_new_lines(self) -> list[str]:
        """The complete lines it has printed since the last call."""
        try:
            with self.log.open("rb") as log:
                log.seek(self.read_to)
                text = log.read()
        except OSError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        self.read_to += len(whole)
        return whole.decode(errors="replace").splitlines()

    def describe_failure(self) -> str:
        """Its error message, from the last "society: " on; without one, its last lines."""
        with self.log.open("rb") as log:
            log.seek(self.started_at)
            lines = log.read().decode(errors="replace").splitlines()
        # Errors begin with "society: ", tracebacks of the interpreter do not.
        begins = [n for n, line in enumerate(lines) if line.startswith("society: ")]
        if not begins:
            return "\n".join((f"its process ended with status {self.status}", *lines[-5:]))
        message = lines[begins[-1] :]
        kept = [line for line in message if not line.startswith("resume with: ")]
        return "\n".join(kept).removeprefix("society: ")


def choose_jobs(members: Sequence[Member]) -> int:
    """How many members run at a time: cores + 1 for the built-in model, else one.

    The built-in model uses one core. One more run than cores keeps all cores busy to the end: of
    three runs on two cores, none is left to run alone beside an idle core.
    """
    if any(address != "embedded:" for m in members for address in m.config.addresses):
        return 1
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    return min(cores + 1, len(members))


async def run_members(
    members: Sequence[RunningMember],
    jobs: int,
    command: Callable[[Member], Sequence[str]],
    refresh: Callable[[], None],
) -> None:
    """Run all of them, at most `jobs` at a time; call `refresh` a few times a second.

    `command` gives the program that runs a member, with its arguments. When cancelled, this stops
    the members that run, each as Ctrl-C would, and waits for them.
    """
    # Members wait in the order of the sweep.
    turns = asyncio.Semaphore(jobs)

    async def one(running: RunningMember) -> None:
        async with turns:
            await _run_member(running, command(running.member))

    tasks = [asyncio.create_task(one(running)) for running in members]
    pending = set(tasks)
    try:
        while pending:
            refresh()
            _, pending = await asyncio.wait(pending, timeout=POLL_S)
    finally:
        for task in pending:
            task.cancel()
        # Stopping takes up to a minute per member; the display goes on meanwhile.
        while pending:
            _, pending = await asyncio.wait(pending, timeout=POLL_S)
            refresh()
    refresh()
    await asyncio.gather(*tasks)


async def _run_member(running: RunningMember, command: Sequence[str]) -> None:
    # The log is appended to: show only what this start writes.
    running.started_at = running.read_to = running.log.stat().st_size if running.log.exists() else 0
    with running.log.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            # Every member would print its own final table here.
            stdout=asyncio.subprocess.DEVNULL,
            stderr=log,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            # Ctrl-C in a terminal reaches the whole group, and the sweep itself passes it on.
            start_new_session=True,
        )
    running.state = "running"
    try:
        status = await process.wait()
    except asyncio.CancelledError:
        await _stop_member(process)
        running.state = "stopped"
        raise
    running.state, running.status = _classify_status(status), status


async def _stop_member(process: asyncio.subprocess.Process) -> None:
    """Stop a member in order; a second cancellation ends it at once."""
    assert process.stdin is not None
    # A closed stdin tells the member to stop, see society.cli.sweep_member.
    process.stdin.close()
    try:
        await process.wait()
    except asyncio.CancelledError:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), _AT_ONCE_S)
        except TimeoutError:
            process.kill()
            await process.wait()


def _classify_status(status: int) -> MemberState:
    if status == 0:
        return "finished"
    return "stopped" if status == 130 or -status in _STOPPING else "failed"
