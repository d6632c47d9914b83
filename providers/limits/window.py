"""A budget per minute that holds in every minute, wherever it begins."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from providers.limits.patience import Clock

# A little more than a minute, so that one that includes both of its ends agrees.
_MINUTE_S = 60.00001
# The server counts a request when it comes in: after it was sent, and before its answer is there.
# Slower ways than this are not reckoned with, or slow answers would halve the rate.
_LONGEST_WAY_S = 1.0
_SHORTEST_WAIT_S = 1e-6


@dataclass(slots=True)
class Use:
    """What one request has used up. `at` is the latest moment at which the server counts it."""

    at: float
    amount: float


class Window:
    """At most `budget` in any minute; less than one in a minute is one in so many more.

    Nothing counts for more than the whole budget, since it could never be sent.
    """

    def __init__(self, budget: float, *, clock: Clock) -> None:
        self._budget = max(1.0, budget)
        self._length_s = _MINUTE_S * max(1.0, 1.0 / budget)
        self._clock = clock
        self._uses: deque[Use] = deque()
        self._used = 0.0

    def wait_s(self, amount: float) -> float:
        """Seconds until `amount` may be sent, should nothing else be sent before; 0: now."""
        now = self._clock()
        while self._uses and self._uses[0].at + self._length_s <= now:
            self._used -= self._uses.popleft().amount
        if not self._uses:
            self._used = 0.0
        excess = self._used + min(amount, self._budget) - self._budget
        free_at = now
        for use in self._uses:
            if excess <= 0:
                break
            excess -= use.amount
            free_at = max(free_at, use.at + self._length_s)
        return max(_SHORTEST_WAIT_S, free_at - now) if free_at > now else 0.0

    def send(self, amount: float) -> Use:
        """`amount` is sent now; `answered` says when its way is over."""
        use = Use(self._clock() + _LONGEST_WAY_S, min(amount, self._budget))
        self._uses.append(use)
        self._used += use.amount
        return use

    def answered(self, use: Use) -> None:
        """The server has counted it by now."""
        use.at = min(use.at, self._clock())
