"""How a command stops on Ctrl-C, SIGTERM (`kill`, schedulers) and SIGHUP (a closed terminal).

All three raise `KeyboardInterrupt`. Inside `stop_in_order` the first signal begins an orderly stop
and only the second one raises: paid answers still arrive and are stored, for at most `WAIT_S`.
A SIGHUP that is ignored at the start (nohup) stays ignored. A SIGINT that is ignored at the start
(`&` in a script) stays ignored when Ctrl-C in a terminal sends it, and counts when another process
sends it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TypeVar

from providers.errors import Halted
from providers.limits import get_breakers

_ECHO_S = 0.1
_EXIT = 130


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP: a prompt, which continues after Ctrl-C, must end too."""


class _Signals:
    """The signal handlers of this process, and whether a stop has begun."""

    def __init__(self) -> None:
        self._heard: int | None = None
        self._heard_at = 0.0
        self._acknowledged = False
        self._begin: Callable[[], None] | None = None
        self._times = 0

    @contextmanager
    def handle(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            # Only the main thread may set handlers; here the program that embeds us has set them.
            yield
            return
        before: dict[signal.Signals, Any] = {}
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            ignored = signal.getsignal(number) is signal.SIG_IGN
            if ignored and number != signal.SIGINT:
                continue
            before[number] = signal.signal(number, self._hear)
            if ignored:
                _hear_other_processes_only(number)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def orderly(self, begin: Callable[[], None]) -> Iterator[None]:
        self._begin, self._times, self._acknowledged = begin, 0, False
        try:
            yield
        finally:
            self._begin = None

    def begin(self) -> bool:
        """Begin a stop as a signal does, once; False outside of `stop_in_order`."""
        begin = self._begin
        if begin is None:
            return False
        if not self._times:
            self._times = 1
            begin()
        return True

    def acknowledge(self) -> None:
        self._acknowledged = True

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._is_echo(number):
            return
        if self._begin is not None:
            self._times += 1
            if self._times == 1:
                self._begin()
                return
            # A third signal means that the orderly stop hangs.
            if self._times > 2:
                # Everything stored is committed, as after kill -9.
                os._exit(_EXIT)
        _keep_interrupt_unreported()
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    def _is_echo(self, number: int) -> bool:
        """Whether the signal repeats one that was handled already."""
        now = time.monotonic()
        before, age_s = self._heard, now - self._heard_at
        self._heard, self._heard_at = number, now
        if number == signal.SIGHUP:
            # A closed terminal and its shell both send SIGHUP, and so does systemd after SIGTERM.
            return before is not None
        # `timeout` sends its signal to the process and once more to its process group.
        return number == before and age_s < _ECHO_S and not self._acknowledged


_signals = _Signals()


@contextmanager
def handle_signals() -> Iterator[None]:
    """Handle signals as above while the block runs; outside the main thread, change nothing."""
    with _signals.handle():
        yield


@contextmanager
def stop_in_order(begin: Callable[[], None]) -> Iterator[None]:
    """Inside the block, the first signal calls `begin` in the main thread, at any moment."""
    with _signals.orderly(begin):
        yield


def acknowledge_signal() -> None:
    """The user has been told that a stop has begun: another signal is a second request to stop."""
    _signals.acknowledge()


def stop_process() -> None:
    """Stop this process as a first signal does, from any thread; do nothing if it is stopping."""
    if not _signals.begin():
        os.kill(os.getpid(), signal.SIGTERM)


_listening = threading.Event()


def _hear_other_processes_only(number: signal.Signals) -> None:
    """Act on signal `number` if a process has sent it, and ignore it from a terminal."""
    if _listening.is_set() or not hasattr(signal, "sigwaitinfo"):
        return
    _listening.set()

    def listen() -> None:
        while True:
            # The kernel (Ctrl-C in a terminal) sends a positive code, a process 0 or less.
            if signal.sigwaitinfo({number}).si_code <= 0:
                os.kill(os.getpid(), signal.SIGTERM)

    # Threads inherit the mask, so that from now on only the waiting thread gets the signal.
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    threading.Thread(target=listen, daemon=True, name="interrupts").start()


T = TypeVar("T")
Tell = Callable[[str], None]
End = Callable[["asyncio.Task[Any]"], Awaitable[None]]

WAIT_S = 60.0
_TOLD_EVERY_S = 10.0
# Time to store and vote on the answers that have arrived.
_GRACE_S = 1.0


def run_stoppable(work: Coroutine[Any, Any, T], tell: Tell) -> T:
    """`asyncio.run` whose first signal stops `work` in order: calls under way are awaited.

    `tell` gets the messages for the user. Raises `KeyboardInterrupt` after a stop.

        run_stoppable(loop.run(folder, config, store, observer), tell)
    """

    async def end(task: asyncio.Task[Any]) -> None:
        await _await_arrivals(task, tell)

    return run_until_stopped(work, end)


def run_until_stopped(work: Coroutine[Any, Any, T], end: End) -> T:
    """`asyncio.run` whose first signal calls `end` with the task that does the work.

    Raises `KeyboardInterrupt` unless the work has finished by then.
    """
    task = asyncio.run(_supervise(work, end))
    if task is None:
        raise KeyboardInterrupt
    return task.result()


async def _supervise(work: Coroutine[Any, Any, T], end: End) -> asyncio.Task[T] | None:
    loop = asyncio.get_running_loop()
    task, stop = loop.create_task(work), asyncio.Event()
    stopped = loop.create_task(stop.wait())
    try:
        with stop_in_order(lambda: _call_soon(loop, stop.set)):
            # The signal handler only sets `stop`: the loop itself decides when to cancel.
            await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                await end(task)
                task.cancel()
                await asyncio.wait({task})
    finally:
        stopped.cancel()
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # otherwise asyncio logs that the exception was never retrieved
    if task.cancelled() or (stop.is_set() and isinstance(task.exception(), Halted)):
        return None
    return task


async def _await_arrivals(task: asyncio.Task[Any], tell: Tell) -> None:
    """Send no new call, and wait for those under way."""
    calls = get_breakers()
    # With no call in flight there is nothing to wait for.
    if not calls.halt(Halted("the run is being stopped")):
        return
    tell(
        f"stopping: waiting up to {WAIT_S:.0f} s for {calls.in_flight} call(s) under way; "
        "stop again to give them up"
    )
    acknowledge_signal()
    arrived = asyncio.ensure_future(calls.wait_idle())
    until = time.monotonic() + WAIT_S
    while (left := until - time.monotonic()) > 0 and not (arrived.done() or task.done()):
        pause = min(left, _TOLD_EVERY_S)
        await asyncio.wait({arrived, task}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
        if not arrived.done() and left > pause:
            tell(f"stopping: {calls.in_flight} call(s) still under way")
    if arrived.done():
        await asyncio.wait({task}, timeout=_GRACE_S)
        return
    # Time is up; whatever is still in flight is cancelled by the caller.
    arrived.cancel()
    if not task.done():
        tell(
            f"giving up {calls.in_flight} call(s) that did not end in {WAIT_S:.0f} s; they may be "
            "billed, and resuming repeats them"
        )


def _keep_interrupt_unreported() -> None:
    """Let the running event loop, if any, not report the interrupt that is about to be raised.

    It is raised wherever the loop happens to be. A task that it hits keeps it as its exception,
    and asyncio reports each exception of a task that nobody awaits.
    """
    with suppress(RuntimeError):
        asyncio.get_running_loop().set_exception_handler(_report_unless_interrupted)


def _report_unless_interrupted(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if not isinstance(context.get("exception"), KeyboardInterrupt):
        loop.default_exception_handler(context)


def _call_soon(loop: asyncio.AbstractEventLoop, act: Callable[[], object]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(act)
