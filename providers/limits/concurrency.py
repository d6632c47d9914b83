"""How many calls may be in flight at once, and which call is next."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque

from providers.limits.retry import Clock

# As in congestion control: double while nothing is refused, then grow by 5 % and cut by a fifth.
START = 20
_USED_ENOUGH = 0.8
_GROWTH = 1.05
_CUT = 0.8
_COOL_DOWN_S = 15.0


class AdaptiveLimit:
    """A number of slots that grows while calls succeed and shrinks when the server refuses some.

    A round is as many good answers as there are slots. A clean round (no rate limit in it) that
    used 80 % of the slots doubles them; after the first rate limit it adds 5 %. A rate limit takes
    a fifth away, at most once in 15 seconds, since calls that are refused together count once.
    """

    def __init__(self, most: int, *, start: int = START, clock: Clock = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._seen_limit = False
        self._cool_until = -math.inf
        self.value = min(start, most)
        self._left, self._peak, self._clean = self.value, 0, True

    def record_use(self, slots: int) -> None:
        """`slots` are taken now."""
        self._peak = max(self._peak, slots)

    def record_success(self) -> None:
        """A call got its answer."""
        self._left -= 1
        if self._left > 0:
            return
        busy = self._peak >= _USED_ENOUGH * self.value
        # Slots that were not used say nothing about what the server can bear.
        if self._clean and busy:
            factor = _GROWTH if self._seen_limit else 2.0
            self.value = min(self._most, math.ceil(self.value * factor))
        self._begin_round()

    def record_rate_limit(self) -> None:
        """The server refused a call for its rate."""
        self._clean = False
        self._seen_limit = True
        now = self._clock()
        if now >= self._cool_until:
            self.value = max(1, int(self.value * _CUT))
            self._cool_until = now + _COOL_DOWN_S
            self._begin_round()

    def _begin_round(self) -> None:
        self._left, self._peak, self._clean = self.value, 0, True


class Slots:
    """Hands out the slots of an `AdaptiveLimit`, first come first served."""

    def __init__(self, limit: AdaptiveLimit) -> None:
        self.limit = limit
        self.taken = 0
        self._waiting: deque[asyncio.Future[bool]] = deque()

    async def take(self, *, first: bool = False) -> bool:
        """Wait for a slot; `first` goes ahead of all others. False: `close` was called."""
        if self.taken < self.limit.value and (first or not self._waiting):
            self._grant()
            return True
        ticket: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if first:
            self._waiting.appendleft(ticket)
        else:
            self._waiting.append(ticket)
        try:
            return await ticket
        except asyncio.CancelledError:
            # The slot may have been granted in the moment of the cancellation.
            if ticket.done() and not ticket.cancelled() and ticket.result():
                self.give_back()
            raise

    def give_back(self) -> None:
        """A slot is free again, or there are more of them now."""
        self.taken -= 1
        self.hand_out()

    def hand_out(self) -> None:
        """Give free slots to waiting calls."""
        while self._waiting and self.taken < self.limit.value:
            ticket = self._waiting.popleft()
            if not ticket.done():
                self._grant()
                ticket.set_result(True)

    def close(self) -> None:
        """End all waiting without a slot."""
        while self._waiting:
            ticket = self._waiting.popleft()
            if not ticket.done():
                ticket.set_result(False)

    def _grant(self) -> None:
        self.taken += 1
        self.limit.record_use(self.taken)
