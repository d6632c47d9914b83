"""The switch that stops every call at once, and lets those on their way arrive first."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable

from providers.errors import ProviderError
from providers.limits.patience import Sleep


class Breaker:
    """Closed until an error that no later call can escape: then nothing more goes out.

    Whoever is stopped learns it only when the calls on their way have ended, because the caller
    gives up everything at the first error, and an answer that is paid for must be kept.
    """

    def __init__(self, *, sleep: Sleep = asyncio.sleep) -> None:
        self._sleep = sleep
        self._error: ProviderError | None = None
        self._also: Callable[[], Awaitable[None]] | None = None
        self._under_way = 0
        self._arrived = asyncio.Event()
        self._arrived.set()
        self._naps: set[asyncio.Future[None]] = set()
        self._on_trip: list[Callable[[], None]] = []

    @property
    def tripped(self) -> bool:
        return self._error is not None

    def on_trip(self, act: Callable[[], None]) -> None:
        """Have `act` called when the switch opens."""
        self._on_trip.append(act)

    @property
    def under_way(self) -> int:
        """How many calls have gone out and not ended."""
        return self._under_way

    def trip(self, error: ProviderError, also: Callable[[], Awaitable[None]] | None = None) -> None:
        """Stop everything because of `error`; the first error stays.

        Whoever is stopped waits for `also` too, such as the calls to another account.
        """
        if self._error is not None:
            return
        self._error, self._also = error, also
        for act in self._on_trip:
            act()
        for nap in self._naps:
            nap.cancel()

    def depart(self) -> None:
        """A call goes out. Only after `tripped` was looked at, without an await in between."""
        self._under_way += 1
        self._arrived.clear()

    def arrive(self) -> None:
        """A call has ended, however."""
        self._under_way -= 1
        if self._under_way == 0:
            self._arrived.set()

    async def arrived(self) -> None:
        """Return once no call is on its way."""
        await self._arrived.wait()

    async def stopped(self) -> ProviderError:
        """The error to raise, once all calls on their way have arrived."""
        await self._arrived.wait()
        if self._also is not None:
            await self._also()
        if self._error is None:
            raise AssertionError("the breaker has not been tripped")
        # Every caller raises its own copy: a raised exception collects tracebacks.
        return copy.copy(self._error)

    async def pause(self, seconds: float) -> None:
        """Sleep, or until the switch opens."""
        if self.tripped:
            return
        nap = asyncio.ensure_future(self._sleep(seconds))
        self._naps.add(nap)
        try:
            await asyncio.wait((nap,))
        finally:
            self._naps.discard(nap)
            nap.cancel()
