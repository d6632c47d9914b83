"""What a command does on Ctrl-C, SIGTERM (`kill`, schedulers) and SIGHUP (a closed terminal).

They all raise `KeyboardInterrupt`; inside `orderly` the first one begins a stop in good order, and
only the second one raises. A SIGHUP that is ignored at the start (nohup) stays ignored. A SIGINT
that is ignored at the start (`&` in a script) is not meant for this process where Ctrl-C in a
terminal sends it; where another process sends it, it is.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_ECHO_S = 0.1
_EXIT = 130


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP: also what goes on after Ctrl-C, such as a prompt, has to end."""


class _Signals:
    """What this process does when a signal comes."""

    def __init__(self) -> None:
        self._heard: int | None = None
        self._heard_at = 0.0
        self._acknowledged = False
        self._begin: Callable[[], None] | None = None
        self._times = 0

    @contextmanager
    def handled(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            # Python lets no other thread say what a signal does; whoever has the main one decides.
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
        """Stop as by a signal, unless that has begun; False where nothing can be stopped so."""
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
            if self._times > 2:
                # Everything stored is committed, as after kill -9.
                os._exit(_EXIT)
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    def _is_echo(self, number: int) -> bool:
        """Whether the signal says again what another one has said."""
        now = time.monotonic()
        before, age_s = self._heard, now - self._heard_at
        self._heard, self._heard_at = number, now
        if number == signal.SIGHUP:
            # A closed terminal sends it, and so does the shell in it, or systemd after SIGTERM.
            return before is not None
        # `timeout` sends its signal to the process and again to its group.
        return number == before and age_s < _ECHO_S and not self._acknowledged


_signals = _Signals()


@contextmanager
def handled() -> Iterator[None]:
    """Handle the signals in this way while the block runs, where it runs in the main thread."""
    with _signals.handled():
        yield


@contextmanager
def orderly(begin: Callable[[], None]) -> Iterator[None]:
    """Inside the block the first signal calls `begin` in the main thread, at any moment."""
    with _signals.orderly(begin):
        yield


def acknowledge() -> None:
    """Say that the first signal was heard, and whoever has sent it told so: the next is another."""
    _signals.acknowledge()


def stop_once() -> None:
    """Stop this process as the first signal does; nothing happens where it is stopping already.

    For another thread than the main one.
    """
    if not _signals.begin():
        os.kill(os.getpid(), signal.SIGTERM)


_listening = threading.Event()


def _hear_other_processes_only(number: signal.Signals) -> None:
    """Act on `number` where a process sends it, and not where a terminal does."""
    if _listening.is_set() or not hasattr(signal, "sigwaitinfo"):
        return
    _listening.set()

    def listen() -> None:
        while True:
            # The kernel's own signals have a positive code.
            if signal.sigwaitinfo({number}).si_code <= 0:
                os.kill(os.getpid(), signal.SIGTERM)

    # Threads inherit the mask: from now on only the one that waits takes the signal.
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    threading.Thread(target=listen, daemon=True, name="interrupts").start()
