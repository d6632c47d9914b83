"""The judge: decides whether two expressions are equal, in processes that may fail.

Algebra on what a language model wrote may run forever, eat all memory or crash the interpreter, so
it runs in worker processes (`evals.judge.worker`) that the kernel ends at a limit of processor
time: a busy machine does not change a verdict. A pair that the judge gives up counts as "not the
same".

    judge = Judge(workers=2, cpu_seconds=2.0)
    judge.same("f(x)+1", "1+f(x)")     # True
    judge.close()

A pool of our own: Pebble and `multiprocessing` import the user's main module in every worker, so
that a script without an ``if __name__`` guard runs again in each of them.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from evals.judge.worker import PairLimits

Pair = tuple[str, str]
LONGEST_PAIR = 2000
"""Characters; a pair with a longer side is not the same and costs no worker."""

# Verdicts; the least recently used one is forgotten first.
_REMEMBERED = 200_000
# Importing the algebra system takes a second, on a very busy machine a minute.
_START_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A pair that the judge gave up, and why: ``SIGPROF`` is its processor time, ``SIGALRM`` the
    wall clock, ``SIGSEGV`` a crash."""

    pair: Pair
    reason: str


class JudgeError(RuntimeError):
    """The judge's processes cannot be started or keep failing."""


class Judge:
    """Decides pairs in `workers` processes; safe to use from any number of threads.

    `cpu_seconds`, `wall_seconds` and `memory_mb` limit every single pair. The processes start
    with the first pair and end with `close` or with this process, whatever ends it.
    """

    def __init__(
        self,
        workers: int = 2,
        cpu_seconds: float = 2.0,
        memory_mb: int = 1024,
        wall_seconds: float = 60.0,
    ) -> None:
        if workers < 1 or cpu_seconds <= 0 or wall_seconds <= 0 or memory_mb < 256:
            raise ValueError(
                f"workers = {workers}, cpu_seconds = {cpu_seconds}, wall_seconds = {wall_seconds}, "
                f"memory_mb = {memory_mb}: all must be positive, memory_mb at least 256"
            )
        self.workers = workers
        self.limits = PairLimits(cpu_seconds, wall_seconds, memory_mb)
        self.decided = 0
        self._memo: OrderedDict[Pair, Future[bool]] = OrderedDict()
        self._given_up: dict[Pair, str] = {}
        self._pool: _Pool | None = None
        self._lock = threading.Lock()
        self._closed = False

    def same(self, a: str, b: str) -> bool:
        """Whether the judge finds the two equal; blocks until it is decided.

        Symmetric and reflexive. Raises JudgeError where no worker can be had.
        """
        if a == b:
            return True
        pair = (a, b) if a <= b else (b, a)
        if max(len(a), len(b)) > LONGEST_PAIR:
            return False
        with self._lock:
            verdict = self._memo.get(pair)
            if mine := verdict is None:
                verdict = self._memo[pair] = Future()
                if len(self._memo) > _REMEMBERED:
                    self._memo.popitem(last=False)
            else:
                self._memo.move_to_end(pair)
        # Other threads that ask about the same pair wait for this one's verdict.
        if mine:
            self._decide(pair, verdict)
        return verdict.result()

    def list_given_up(self) -> tuple[GivenUp, ...]:
        """The pairs that the judge has given up so far."""
        with self._lock:
            return tuple(GivenUp(pair, why) for pair, why in self._given_up.items())

    def close(self) -> None:
        """End the processes. Pairs that are remembered can still be asked for."""
        with self._lock:
            self._closed = True
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def _decide(self, pair: Pair, verdict: Future[bool]) -> None:
        try:
            same, reason = self._ask(pair)
        except BaseException as error:
            with self._lock:
                self._memo.pop(pair, None)
            verdict.set_exception(error)
            raise
        with self._lock:
            self.decided += 1
            if reason is not None:
                self._given_up[pair] = reason
        verdict.set_result(same)

    def _ask(self, pair: Pair) -> tuple[bool, str | None]:
        for _ in range(2):
            pool = self._get_pool()
            answer = pool.ask(pair)
            if answer is None:
                self._drop(pool)
            elif answer.get("died") != signal.SIGKILL.name:
                died = answer.get("died")
                return answer.get("same") is True, None if died is None else str(died)
            # Killed from outside, as by a lack of memory on the machine: not the pair's doing.
        return False, "the worker was killed twice"

    def _get_pool(self) -> _Pool:
        with self._lock:
            if self._closed:
                raise JudgeError("the judge is closed; make a new one")
            if self._pool is None or self._pool.owner != os.getpid():
                self._pool = _Pool(self.workers, self.limits)
            return self._pool

    def _drop(self, pool: _Pool) -> None:
        with self._lock:
            if self._pool is pool:
                self._pool = None
        pool.close()


class _Pool:
    """One server process, and a line to each of its workers."""

    def __init__(self, workers: int, limits: PairLimits) -> None:
        if not hasattr(os, "fork"):
            raise JudgeError("the judge needs a POSIX system; on Windows use WSL")
        self.owner = os.getpid()
        self.patience = limits.wall_seconds + 30
        self.life, theirs = socket.socketpair()
        pairs = [socket.socketpair() for _ in range(workers)]
        self.lines: queue.LifoQueue[socket.socket | None] = queue.LifoQueue()
        for near, _ in pairs:
            self.lines.put(near)
        with tempfile.TemporaryFile() as errors:
            try:
                self.server = _start_server(limits, theirs, [far for _, far in pairs], errors)
            finally:
                for end in (theirs, *(far for _, far in pairs)):
                    end.close()
            if not self._is_ready():
                self.close()
                errors.seek(0)
                raise JudgeError(
                    "the judge's processes do not start; see that math-verify is installed "
                    f"(pip install math-verify): {errors.read()[-500:].decode(errors='replace')}"
                )

    def _is_ready(self) -> bool:
        self.life.settimeout(_START_SECONDS)
        try:
            return self.life.recv(1) != b""
        except OSError:
            return False

    def ask(self, pair: Pair) -> dict[str, object] | None:
        """The answer of a free worker; None where the server is gone."""
        line = self.lines.get()
        if line is None:
            self.lines.put(None)
            return None
        answer: dict[str, object] | None = None
        try:
            line.settimeout(self.patience)
            line.sendall(json.dumps({"a": pair[0], "b": pair[1]}).encode() + b"\n")
            # Until the worker has begun, a "died" is about an idle worker, whose successor takes
            # the pair.
            row: dict[str, object] | None = {}
            while row is not None and "began" not in row:
                row = _receive_row(line)
            answer = row and _receive_row(line)
        except OSError:
            return None
        finally:
            # An answer that did not come may come later: the line is of no use any more.
            self.lines.put(line if answer else None)
            if not answer:
                line.close()
        return answer

    def close(self) -> None:
        """End the server, which ends its workers."""
        self.life.close()
        try:
            self.server.wait(5)
        except subprocess.TimeoutExpired:
            self.server.kill()
            self.server.wait()
        self.lines.put(None)


def _start_server(
    limits: PairLimits, life: socket.socket, lines: list[socket.socket], errors: IO[bytes]
) -> subprocess.Popen[bytes]:
    descriptors = [life.fileno(), *(line.fileno() for line in lines)]
    path = [os.path.abspath(entry) for entry in sys.path]
    worker = Path(__file__).with_name("worker.py")
    return subprocess.Popen(
        [
            *(sys.executable, "-P", str(worker), json.dumps(asdict(limits))),
            *(str(number) for number in descriptors),
        ],
        pass_fds=descriptors,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        # The order of sets, and with it some verdicts, must not change from run to run.
        env=os.environ | {"PYTHONHASHSEED": "0", "JUDGE_PATH": json.dumps(path)},
        start_new_session=True,
    )


def _receive_row(line: socket.socket) -> dict[str, object] | None:
    """The next row of a line; None where the other end is closed. Raises OSError in time."""
    row = b""
    while not row.endswith(b"\n"):
        # One byte at a time: the row after this one may be there already.
        byte = line.recv(1)
        if not byte:
            return None
        row += byte
    return dict(json.loads(row))


_shared: Judge | None = None
_shared_lock = threading.Lock()


def get_shared_judge() -> Judge:
    """The judge that all of this process shares; it starts with its first pair."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = Judge(workers=max(2, min(8, os.cpu_count() or 2)))
            atexit.register(_shared.close)
        return _shared


def _forget_shared_judge() -> None:
    """In a forked child the lines belong to the parent."""
    global _shared, _shared_lock
    _shared, _shared_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_shared_judge)
