"""The judge's processes: a server that has the algebra system loaded, and its workers.

Started by `evals.judge.pool` as a program of its own, never imported beside threads. The server
imports the heavy packages once and forks a worker per line; a worker that dies (killed by the
kernel for its time, out of memory, crashed) is reported on its line and forked anew in
milliseconds. The server kills the workers and ends as soon as the parent's end of the life line
closes, whatever ended the parent.

A line carries JSON objects, each on a row of its own, one at a time: a pair ``{"a", "b"}`` to the
worker, ``{"began"}`` and ``{"same"}`` from it, or ``{"died"}`` with the signal's name from the
server; before "began" it is about a worker that was idle, and its successor takes the pair.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

# SymPy's caches grow with every pair; a fresh fork has those of the server.
PAIRS_PER_WORKER = 1000
# Exit statuses of a worker: replaced after many pairs, or its line was closed.
_RETIRED = 3
_FINISHED = 4
_CHUNK = 1 << 16
# How often the server looks whether its parent still lives.
_GLANCE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class PairLimits:
    """What one pair may use: seconds of processor and of wall clock, megabytes of memory."""

    cpu_seconds: float
    wall_seconds: float
    memory_mb: int


def main(arguments: list[str]) -> int:
    """``worker.py LIMITS LIFE LINE…`` with the numbers of the inherited file descriptors."""
    limits = PairLimits(**json.loads(arguments[0]))
    life, *lines = (int(number) for number in arguments[1:])
    _preload()
    waker, wakened = os.pipe()
    os.set_blocking(wakened, False)
    signal.set_wakeup_fd(wakened, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    inherited = {life, waker, wakened, *lines}
    # Forked from a process that has everything loaded: a new worker is there in milliseconds.
    workers = {_fork(line, limits, inherited): line for line in lines}
    parent = os.getppid()
    os.write(life, b"\n")
    while True:
        ready, _, _ = select.select([life, waker], [], [], _GLANCE_SECONDS)
        # A child that the parent forked may hold the life line open; a new parent tells as well.
        if life in ready or os.getppid() != parent:
            _kill_workers(workers)
            return 0
        if waker in ready:
            os.read(waker, _CHUNK)
        for process, status in _collect_ended():
            line = workers.pop(process)
            if status == _FINISHED:
                continue
            if status != _RETIRED:
                _send(line, {"died": _name_exit(status)})
            workers[_fork(line, limits, inherited)] = line


def _load_package() -> None:
    """Import the `evals` that this file belongs to: the user may have a folder of that name."""
    place = Path(__file__).parents[1] / "__init__.py"
    spec = spec_from_file_location("evals", place, submodule_search_locations=[str(place.parent)])
    assert spec is not None
    assert spec.loader is not None
    sys.modules["evals"] = package = module_from_spec(spec)
    spec.loader.exec_module(package)


def _preload() -> None:
    from evals.judge.algebra import load_parser

    load_parser()


def _kill_workers(workers: dict[int, int]) -> None:
    for process in workers:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)


def _collect_ended() -> list[tuple[int, int]]:
    ended = []
    with contextlib.suppress(ChildProcessError):
        while True:
            process, status = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                break
            ended.append((process, os.waitstatus_to_exitcode(status)))
    return ended


def _name_exit(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"exit {status}"


def _fork(line: int, limits: PairLimits, inherited: set[int]) -> int:
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        # A line must close with its own worker, whatever the others do.
        for descriptor in inherited - {line}:
            os.close(descriptor)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        status = _decide_pairs(line, limits)
    finally:
        os._exit(status)


def _decide_pairs(line: int, limits: PairLimits) -> int:
    import resource

    from evals.judge.algebra import are_equal

    for number in (signal.SIGCHLD, signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    size = limits.memory_mb << 20
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for _ in range(PAIRS_PER_WORKER):
        message = b""
        while not message.endswith(b"\n"):
            chunk = os.read(line, _CHUNK)
            if not chunk:
                return _FINISHED
            message += chunk
        _send(line, {"began": True})
        pair = json.loads(message)
        # The kernel ends the process at either limit, also within a C function.
        signal.setitimer(signal.ITIMER_PROF, limits.cpu_seconds)
        signal.setitimer(signal.ITIMER_REAL, limits.wall_seconds)
        verdict = are_equal(pair["a"], pair["b"])
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(line, {"same": verdict})
    return _RETIRED


def _send(line: int, message: dict[str, object]) -> None:
    with contextlib.suppress(OSError):
        os.write(line, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    sys.path[:] = json.loads(os.environ.pop("JUDGE_PATH"))
    _load_package()
    raise SystemExit(main(sys.argv[1:]))
