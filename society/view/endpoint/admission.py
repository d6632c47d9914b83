"""How many requests are debated at a time, how many wait for that, and who is sent away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from society.view.endpoint.refusals import RequestRefused

_LONGEST_RETRY_S = 60.0
# How much the newest request counts in the mean time that one takes.
_NEWEST = 0.2


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """What the server takes on: `running` requests at a time, and `waiting` behind them."""

    running: int = 64
    waiting: int = 256


class Admission:
    """Places for requests, given in the order of asking.

        async with admission.hold_place():
            ...

    For the tasks of one event loop. A task that is cancelled while it waits, or later, gives its
    place to the next.
    """

    def __init__(self, limits: QueueLimits) -> None:
        self._limits = limits
        self._places = asyncio.Semaphore(limits.running)
        self.running = 0
        self.waiting = 0
        self._mean_s = 1.0

    @asynccontextmanager
    async def hold_place(self) -> AsyncIterator[None]:
        """Wait for a place and keep it while the block runs; 429 if too many wait already."""
        # A full queue is told at once: a client that hangs until its own timeout asks again anyway.
        if self._places.locked() and self.waiting >= self._limits.waiting:
            raise self._refuse()
        self.waiting += 1
        try:
            await self._places.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        started = time.monotonic()
        try:
            yield
        finally:
            self.running -= 1
            self._places.release()
            # Also of requests that failed, since their places were taken just as long.
            self._mean_s += _NEWEST * (time.monotonic() - started - self._mean_s)

    def _refuse(self) -> RequestRefused:
        # When a place is free for a request that came now, as far as the last ones tell.
        rows = (self.waiting + self.running) / self._limits.running
        wait_s = min(_LONGEST_RETRY_S, max(1.0, rows * self._mean_s))
        return RequestRefused(
            429,
            f"{self.running} requests are being debated and {self.waiting} wait, which is the most "
            f"that this server takes; ask again in {wait_s:.0f} s",
            "rate_limit_error",
            "queue_full",
            again=True,
            retry_after_s=wait_s,
        )
