"""Requests and tokens per minute: a bucket spreads them, a window never lets more through.

A server may count in windows of its own that begin at any time, so a window holds for every minute.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

from providers.limits.retry import Clock

# A little more than a minute, in case a server's minute includes both of its ends.
_MINUTE_S = 60.00001
# The server counts a request when it comes in: after it was sent, and before its answer is there.
# The longest time that a request takes to arrive. Waiting for its answer instead would halve the
# rate of slow models.
_LONGEST_TRANSIT_S = 1.0
_SHORTEST_WAIT_S = 1e-6


@dataclass(frozen=True, slots=True)
class Quota:
    """What a server says about one of its rate limits.

    `limit` is the full amount, `remaining` what is left of it, and `reset_s` the seconds until it
    is full again.
    """

    limit: float
    remaining: float
    reset_s: float

    @property
    def plausible(self) -> bool:
        """Whether a rate follows from it; servers send -1 and 0 for limits they do not have."""
        return self.limit > 0 and 0 <= self.remaining < self.limit and self.reset_s > 0


class TokenBucket:
    """Holds up to `capacity`, refilled by `per_second`. Reservations wait in line.

    A level below zero is what is reserved of the future. No reservation counts for more than
    `largest`, since it could never be granted.
    """

    def __init__(
        self,
        capacity: float,
        per_second: float,
        *,
        largest: float | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._capacity = capacity
        self._per_second = per_second
        self._largest = capacity if largest is None else largest
        self._clock = clock
        self._level = capacity
        self._at = clock()

    @classmethod
    def per_minute(cls, budget: float, *, clock: Clock = time.monotonic) -> TokenBucket:
        """A bucket for `budget` per minute. Only a sixth of it goes out at once, since some servers
        count in windows shorter than a minute.
        """
        return cls(max(1.0, budget / 6), budget / 60, largest=budget, clock=clock)

    def reserve(self, amount: float) -> float:
        """Take `amount`; returns the seconds to wait before using it."""
        self._refill()
        self._level -= min(amount, self._largest)
        # Below zero is the future: the wait is the time until this much has been refilled.
        return max(0.0, -self._level / self._per_second)

    def give_back(self, amount: float) -> None:
        """Undo a reservation that was not used."""
        self._refill()
        self._level = min(self._capacity, self._level + min(amount, self._largest))

    def observe(self, quota: Quota, outstanding: float) -> None:
        """Follow what the server says; `outstanding` is reserved but not yet in its count."""
        # The refill rate is not reported; it follows from how long the rest takes to come back.
        self._capacity = self._largest = quota.limit
        self._per_second = (quota.limit - quota.remaining) / quota.reset_s
        self._level = quota.remaining - outstanding
        self._at = self._clock()

    def _refill(self) -> None:
        now = self._clock()
        earned = (now - self._at) * self._per_second
        self._level = min(self._capacity, self._level + earned)
        self._at = now


@dataclass(slots=True)
class WindowUse:
    """What one request uses. `at` is the latest moment at which the server counts it."""

    at: float
    amount: float


class SlidingWindow:
    """At most `budget` in any minute; a budget of 0.25 is one in four minutes.

    No request counts for more than the whole budget, since it could never be sent.
    """

    def __init__(self, budget: float, *, clock: Clock) -> None:
        self._budget = max(1.0, budget)
        self._length_s = _MINUTE_S * max(1.0, 1.0 / budget)
        self._clock = clock
        self._uses: deque[WindowUse] = deque()
        self._used = 0.0

    def wait_s(self, amount: float) -> float:
        """Seconds until `amount` may be sent if nothing else is sent before; 0: now."""
        now = self._clock()
        while self._uses and self._uses[0].at + self._length_s <= now:
            self._used -= self._uses.popleft().amount
        # Sums of floats drift; an empty window is exactly empty.
        if not self._uses:
            self._used = 0.0
        excess = self._used + min(amount, self._budget) - self._budget
        free_at = now
        for use in self._uses:
            if excess <= 0:
                break
            excess -= use.amount
            free_at = max(free_at, use.at + self._length_s)
        # A shorter wait could round to no time at all, and the caller would ask for ever.
        return max(_SHORTEST_WAIT_S, free_at - now) if free_at > now else 0.0

    def record_sent(self, amount: float) -> WindowUse:
        """`amount` is sent now; `record_arrival` tells that it has arrived."""
        use = WindowUse(self._clock() + _LONGEST_TRANSIT_S, min(amount, self._budget))
        self._uses.append(use)
        self._used += use.amount
        return use

    def record_arrival(self, use: WindowUse) -> None:
        """The server has answered, so it has counted the request by now."""
        use.at = min(use.at, self._clock())
