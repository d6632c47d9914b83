"""One server process with all its children, from its start to the end of the last of them.

A server of an engine is a tree: the process that listens, one that computes, one for each graphics
card. Killing the first leaves the others behind with the card's memory. So the tree is a process
group, in a session of its own, which ends in one of three ways:

- `ServerProcess.stop` asks the first process to end and then kills what is left of the group;
- if this process dies, even by SIGKILL, a pipe that it held closes, and a watcher in the group ends
  the group;
- what is still there when a run starts again is found by the record in its folder, and ended.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from providers.errors import InvalidSettings

_POLL_S = 0.05
_KILL_S = 10.0
"""How long the kernel may take for a killed process; one that waits for a disk takes longest."""
_PROC = Path("/proc")

# The watcher holds the reading end of a pipe, and the run the writing end, which the kernel closes
# with the run. PR_SET_PDEATHSIG would reach the first process only, and would fire when the thread
# that started it ends. The watcher ignores SIGTERM, or it would not be there to send SIGKILL.
_WATCHED = """
exec 3<&0
(trap '' TERM; cat <&3 >/dev/null 2>&1; kill -TERM 0; sleep 5; kill -KILL 0) >/dev/null 2>&1 &
exec "$@" 3<&- </dev/null
"""


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """What tells a process group from a later one with the same id: when its first process began,
    in the kernel's clock ticks since `boot`. Both are "" where the system does not say."""

    pid: int
    started: str
    boot: str


class ServerProcess:
    """A command in a process group of its own, with its output in `log`. For one event loop.

    `record` is a file that says which group it is while it runs.

        process = ServerProcess(["vllm", "serve", "MODEL"], {}, Path("a.log"), Path("a.json"))
        process.start()
        await process.stop(grace_s=30.0)
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], log: Path, record: Path
    ) -> None:
        self._command = tuple(command)
        self._environment = dict(environment)
        self._log = log
        self._record = record
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def start(self) -> None:
        """Start it. Raises `InvalidSettings` if the command cannot be carried out at all."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._log_start = log.tell()
            try:
                self._process = subprocess.Popen(
                    ["/bin/sh", "-c", _WATCHED, "sh", *self._command],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env=self._environment,
                    start_new_session=True,
                )
            except OSError as error:
                raise InvalidSettings(
                    f"the server's command {self._command[0]!r} cannot be started: {error}"
                ) from error
        found = ProcessRecord(self._process.pid, _read_start(self._process.pid) or "", _read_boot())
        written = {"pid": found.pid, "started": found.started, "boot": found.boot}
        self._record.write_text(json.dumps(written), encoding="utf-8")

    @property
    def status(self) -> int | None:
        """The exit status of the first process, negative for a signal; None while it runs."""
        return None if self._process is None else self._process.poll()

    async def wait(self) -> int:
        """Return its exit status when the first process has ended."""
        while True:
            if (status := self.status) is not None:
                return status
            await asyncio.sleep(_POLL_S)

    async def stop(self, grace_s: float) -> None:
        """End the whole group, after `grace_s` seconds by force; returns when nothing is left."""
        process = self._process
        if process is None:
            return
        try:
            if process.poll() is None:
                process.terminate()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.wait(), grace_s)
        finally:
            # Also if the wait was cancelled: an interrupted run leaves nothing behind.
            _kill_group(process.pid)
            process.wait()
            if process.stdin is not None:
                process.stdin.close()
            self._process = None
        await asyncio.to_thread(_wait_for_end, process.pid)
        self._record.unlink(missing_ok=True)

    def read_log(self, lines: int = 20) -> str:
        """The last lines that it has printed since this start."""
        with self._log.open("rb") as log:
            log.seek(self._log_start)
            text = log.read().decode("utf-8", "replace")
        return "\n".join(text.splitlines()[-lines:])


def end_leftovers(record: Path) -> bool:
    """End what is left of the group that the file `record` names; whether there was anything.

    An id that belongs to other processes by now is left alone. Raises `InvalidSettings` if the
    group does not end.
    """
    try:
        written = json.loads(record.read_text(encoding="utf-8"))
        found = ProcessRecord(int(written["pid"]), str(written["started"]), str(written["boot"]))
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError):
        # A run that was killed while it wrote the record had just started the server, whose
        # watcher ends it.
        record.unlink(missing_ok=True)
        return False
    there = _is_same_group(found) and bool(_list_group(found.pid))
    if there:
        _kill_group(found.pid)
        _wait_for_end(found.pid)
    record.unlink(missing_ok=True)
    return there


def _is_same_group(found: ProcessRecord) -> bool:
    if found.boot != _read_boot() or not found.started:
        return False
    # While any process of a group lives, its id is given to no new process. So if the first one is
    # gone, the others are its children.
    return _read_start(found.pid) in (None, found.started)


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + _KILL_S
    while left := _list_group(pid):
        if time.monotonic() > deadline:
            raise InvalidSettings(
                f"the processes {', '.join(map(str, left))} of a server do not end, though they "
                "were killed; look what holds them (ps), and start again when they are gone"
            )
        time.sleep(_POLL_S)


def _list_group(pid: int) -> list[int]:
    """The living processes of a group; without /proc, the group's own id if there is any."""
    if not _PROC.is_dir():
        try:
            os.killpg(pid, 0)
        except (ProcessLookupError, PermissionError):
            return []
        return [pid]
    found = []
    for folder in _PROC.iterdir():
        if folder.name.isdigit() and (fields := _read_stat(int(folder.name))) is not None:
            # A zombie holds nothing any more, and waits for a parent that may never look.
            state, group = fields[0], fields[2]
            if group == str(pid) and state not in "ZX":
                found.append(int(folder.name))
    return found


def _read_start(pid: int) -> str | None:
    """When a process began; None if it is not there, or the system does not say."""
    fields = _read_stat(pid)
    return None if fields is None or fields[0] in "ZX" else fields[19]


def _read_stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on: state, parent, group, session, …"""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The name before them, in brackets, may contain spaces and brackets itself.
    return text.rpartition(")")[2].split()


def _read_boot() -> str:
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
