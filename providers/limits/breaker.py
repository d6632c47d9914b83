"""Stopping all calls of an event loop without losing an answer that is paid for.

After a stop no further call goes out. The calls in flight end first, and only then do the waiting
ones raise the error, because their caller gives up everything at the first error. A `Breaker`
stops the calls of one account; `Breakers` has those of one event loop, and stops requests that
create something, such as a job.
"""

from __future__ import annotations

import asyncio
import copy
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from providers.errors import ProviderError
from providers.limits.retry import Sleep


class Breaker:
    """Lets calls through until an error that every later call would meet; then none.

    Waiting callers get the error after the calls in flight have ended, so that paid answers are
    kept.
    """

    def __init__(self, *, sleep: Sleep = asyncio.sleep) -> None:
        self._sleep = sleep
        self._error: ProviderError | None = None
        self._also: Callable[[], Awaitable[None]] | None = None
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._naps: set[asyncio.Future[None]] = set()
        self._on_trip: list[Callable[[], None]] = []

    @property
    def tripped(self) -> bool:
        return self._error is not None

    def on_trip(self, act: Callable[[], None]) -> None:
        """Call `act` when the breaker trips."""
        self._on_trip.append(act)

    @property
    def in_flight(self) -> int:
        """How many calls have gone out and not ended."""
        return self._in_flight

    def trip(self, error: ProviderError, also: Callable[[], Awaitable[None]] | None = None) -> None:
        """Stop all calls because of `error`; the first error stays.

        The stopped calls wait for `also` too, such as the calls to another account.
        """
        if self._error is not None:
            return
        self._error, self._also = error, also
        for act in self._on_trip:
            act()
        for nap in self._naps:
            nap.cancel()

    def begin(self) -> None:
        """A call goes out. The caller has read `tripped` before, without an await in between."""
        self._in_flight += 1
        self._idle.clear()

    def end(self) -> None:
        """A call has ended, with an answer or an error."""
        self._in_flight -= 1
        if self._in_flight == 0:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Return once no call is in flight."""
        await self._idle.wait()

    async def wait_for_error(self) -> ProviderError:
        """The error to raise, once all calls in flight have ended."""
        await self._idle.wait()
        if self._also is not None:
            await self._also()
        if self._error is None:
            raise AssertionError("the breaker has not been tripped")
        # Every caller raises its own copy: a raised exception collects tracebacks.
        return copy.copy(self._error)

    async def pause(self, seconds: float) -> None:
        """Sleep, but no longer than until the breaker trips."""
        if self.tripped:
            return
        # A task of its own, so that `trip` can end the sleep without cancelling the caller.
        nap = asyncio.ensure_future(self._sleep(seconds))
        self._naps.add(nap)
        try:
            await asyncio.wait((nap,))
        finally:
            self._naps.discard(nap)
            nap.cancel()


class Breakers:
    """The breakers of one event loop. `get_breakers().halt(error)` stops all its calls."""

    def __init__(self) -> None:
        # Weak: a breaker lives as long as the limiters of its account.
        self._breakers: weakref.WeakSet[Breaker] = weakref.WeakSet()
        self._error: ProviderError | None = None
        self._created = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def register(self, breaker: Breaker) -> None:
        """Trip `breaker` together with all others."""
        self._breakers.add(breaker)
        # A provider that is opened during a stop must not call either.
        if self._error is not None:
            breaker.trip(self._error, self.wait_idle)

    def halt(self, error: ProviderError) -> int:
        """Trip all breakers, also those registered later; returns how many calls are in flight."""
        if self._error is None:
            self._error = error
            for breaker in list(self._breakers):
                breaker.trip(error, self.wait_idle)
        return self.in_flight

    def trip_present(self, error: ProviderError) -> None:
        """Trip the present breakers, since one run ends; those registered later are closed."""
        for breaker in list(self._breakers):
            breaker.trip(error, self.wait_idle)

    @property
    def in_flight(self) -> int:
        """How many calls are in flight."""
        return self._created + sum(breaker.in_flight for breaker in self._breakers)

    async def wait_idle(self) -> None:
        """Return once no call is in flight."""
        for breaker in list(self._breakers):
            await breaker.wait_idle()
        await self._idle.wait()

    @asynccontextmanager
    async def pass_through(self) -> AsyncIterator[None]:
        """Around one request that creates something; raises the error of `halt`."""
        if self._error is not None:
            await self.wait_idle()
            raise copy.copy(self._error)
        self._created += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._created -= 1
            if not self._created:
                self._idle.set()


_breakers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Breakers] = (
    weakref.WeakKeyDictionary()
)


def get_breakers() -> Breakers:
    """The breakers of the running event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _breakers:
        _breakers[loop] = Breakers()
    return _breakers[loop]
