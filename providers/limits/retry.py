"""The retry policy for calls: how often a call is made again, and how long it waits in between.

What creates jobs and batches is retried by its provider, which must not create anything twice.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from providers.errors import RetryableError

if TYPE_CHECKING:
    from tenacity import AsyncRetrying, RetryCallState

T = TypeVar("T")
Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]
Draw = Callable[[], float]

_HINT_SPREAD = 0.1


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to retry. A call is given up after `attempts`, or if the next attempt would come
    more than `give_up_after_s` seconds after its first failure.

    The wait is the server's hint, or `first_wait_s` doubled each time up to `longest_wait_s` and
    drawn from its upper half, whichever is longer. Example: `RetryPolicy(attempts=4)`.
    """

    attempts: int = 16
    give_up_after_s: float = 600.0
    first_wait_s: float = 0.5
    longest_wait_s: float = 30.0

    def wait_s(self, failures: int, hint_s: float | None, drawn: float) -> float:
        """Seconds before the next attempt; `drawn` is uniform in 0..1."""
        # Drawn from the upper half: full jitter would let some calls come back at once.
        longest = min(self.longest_wait_s, self.first_wait_s * 2.0 ** (failures - 1))
        backoff = longest * (0.5 + 0.5 * drawn)
        if hint_s is None:
            return backoff
        # Calls that were refused together must not come back together.
        return max(hint_s * (1.0 + _HINT_SPREAD * drawn), backoff)


async def retry(attempt: Callable[[], Awaitable[T]], policy: RetryPolicy, *, sleep: Sleep) -> T:
    """The result of `attempt`, made again while it raises a `RetryableError` and `policy` allows.

    Raises the last `RetryableError`, with what was tried in its message, and any other error of
    `attempt` at once.
    """
    return await make_retrying(policy, sleep=sleep)(attempt)


def make_retrying(
    policy: RetryPolicy,
    *,
    sleep: Sleep,
    clock: Clock = time.monotonic,
    draw: Draw = random.random,
) -> AsyncRetrying:
    """The attempts of one call, for `async for attempt in make_retrying(…)`; see `retry`."""
    # Settings use `RetryPolicy` without making calls, also where tenacity is not installed.
    from tenacity import AsyncRetrying, retry_if_exception_type

    state = _RetryState(policy, clock, draw)
    return AsyncRetrying(
        retry=retry_if_exception_type(RetryableError),
        wait=state.wait_s,
        stop=state.is_over,
        sleep=sleep,
        retry_error_callback=state.give_up,
    )


class _RetryState:
    """The failures of one call so far."""

    def __init__(self, policy: RetryPolicy, clock: Clock, draw: Draw) -> None:
        self._policy = policy
        self._clock = clock
        self._draw = draw
        self._failed_at: float | None = None
        self._attempts = 0

    def wait_s(self, state: RetryCallState) -> float:
        """Tenacity asks this after every failure, before it asks `is_over`."""
        self._attempts = state.attempt_number
        if self._failed_at is None:
            # The time counts from the first failure: a first attempt may wait long for its slot.
            self._failed_at = self._clock()
        failure = None if state.outcome is None else state.outcome.exception()
        hint = failure.retry_after_s if isinstance(failure, RetryableError) else None
        return self._policy.wait_s(self._attempts, hint, self._draw())

    def is_over(self, state: RetryCallState) -> bool:
        return (
            state.attempt_number >= self._policy.attempts
            or self._elapsed_s() + state.upcoming_sleep > self._policy.give_up_after_s
        )

    def give_up(self, state: RetryCallState) -> None:
        """Raise the last error, with what was tried in its message."""
        error = None if state.outcome is None else state.outcome.exception()
        if not isinstance(error, RetryableError):
            raise AssertionError("only a RetryableError is retried")
        # A copy: the error itself has a traceback, and may have been logged with its own message.
        given_up = copy.copy(error)
        hint = error.retry_after_s
        tried = f"{self._attempts} attempt(s) in {self._elapsed_s():,.0f} s"
        asked = "" if hint is None else f" (the server asks to wait {hint:,.0f} s)"
        given_up.given_up = f"{error}; given up after {tried}{asked}"
        given_up.args = (
            f"{given_up.given_up}. Start again when the server is well: what is stored is kept",
        )
        raise given_up from error.__cause__

    def _elapsed_s(self) -> float:
        return 0.0 if self._failed_at is None else self._clock() - self._failed_at
