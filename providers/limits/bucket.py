"""A budget that refills steadily: requests or tokens per minute."""

from __future__ import annotations

import time
from dataclasses import dataclass

from providers.limits.patience import Clock


@dataclass(frozen=True, slots=True)
class Quota:
    """What a server says about one of its budgets.

    `limit` is the full budget, `remaining` what is left of it, and `reset_s` the seconds until it
    is full again.
    """

    limit: float
    remaining: float
    reset_s: float

    @property
    def plausible(self) -> bool:
        """Whether a rate can be read off; servers also send -1 and 0 for budgets they lack."""
        return self.limit > 0 and 0 <= self.remaining < self.limit and self.reset_s > 0


class Bucket:
    """Holds up to `capacity`, refilled by `per_second`. Reservations wait in line.

    The level may fall below zero: that is how much of the future is spoken for. No reservation
    counts for more than `largest`, since it could never be granted.
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
    def per_minute(cls, budget: float, *, clock: Clock = time.monotonic) -> Bucket:
        """A budget per minute. Only a sixth of it goes out at once, so that servers which count
        in shorter windows agree.
        """
        return cls(max(1.0, budget / 6), budget / 60, largest=budget, clock=clock)

    def reserve(self, amount: float) -> float:
        """Take `amount`; returns the seconds to wait before using it."""
        self._refill()
        self._level -= min(amount, self._largest)
        return max(0.0, -self._level / self._per_second)

    def give_back(self, amount: float) -> None:
        """Undo a reservation that was not used."""
        self._refill()
        self._level = min(self._capacity, self._level + min(amount, self._largest))

    def observe(self, quota: Quota, outstanding: float) -> None:
        """Follow what the server says; `outstanding` is reserved but not yet in its count."""
        self._capacity = self._largest = quota.limit
        self._per_second = (quota.limit - quota.remaining) / quota.reset_s
        self._level = quota.remaining - outstanding
        self._at = self._clock()

    def _refill(self) -> None:
        now = self._clock()
        earned = (now - self._at) * self._per_second
        self._level = min(self._capacity, self._level + earned)
        self._at = now
