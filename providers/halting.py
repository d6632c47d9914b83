"""Halting everything that costs money in one event loop, so that nothing paid for is lost.

After `halt` no further call goes out. The calls on their way arrive, and only then do the others
raise the error: their caller gives up everything at the first one. Calls take part by a gate that
is registered here: the breakers of `providers.limits`, and `passing` for what is created once.
"""

from __future__ import annotations

import asyncio
import copy
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from providers.errors import ProviderError


class Gate(Protocol):
    """Counts the calls on their way, and can be shut."""

    @property
    def under_way(self) -> int:
        """How many calls have gone out and not ended."""

    def trip(self, error: ProviderError, also: Callable[[], Awaitable[None]] | None = None) -> None:
        """Let nothing more out; who waits raises `error` once all have arrived, and `also` has."""

    async def arrived(self) -> None:
        """Return once no call is on its way."""


class Halting:
    """The gates of one event loop."""

    def __init__(self) -> None:
        self._gates: weakref.WeakSet[Gate] = weakref.WeakSet()
        self._error: ProviderError | None = None
        self._created = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def register(self, gate: Gate) -> None:
        """Have `gate` shut with all others."""
        self._gates.add(gate)
        if self._error is not None:
            gate.trip(self._error, self.arrived)

    def halt(self, error: ProviderError) -> int:
        """Shut every gate, those to come included; returns how many calls are on their way."""
        if self._error is None:
            self._error = error
            for gate in list(self._gates):
                gate.trip(error, self.arrived)
        return self.under_way

    def shut(self, error: ProviderError) -> None:
        """Shut the gates there are, for one run that ends; those to come are open."""
        for gate in list(self._gates):
            gate.trip(error, self.arrived)

    @property
    def under_way(self) -> int:
        """How many calls are on their way."""
        return self._created + sum(gate.under_way for gate in self._gates)

    async def arrived(self) -> None:
        """Return once no call is on its way."""
        for gate in list(self._gates):
            await gate.arrived()
        await self._idle.wait()

    @asynccontextmanager
    async def passing(self) -> AsyncIterator[None]:
        """Around one call that creates something; raises the error once all has been halted."""
        if self._error is not None:
            await self.arrived()
            raise copy.copy(self._error)
        self._created += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._created -= 1
            if not self._created:
                self._idle.set()


_of_loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Halting] = (
    weakref.WeakKeyDictionary()
)


def of_this_loop() -> Halting:
    """The gates of the running event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _of_loops:
        _of_loops[loop] = Halting()
    return _of_loops[loop]
