"""The one retry loop: how often a call is made again, and how long it waits in between."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from providers.errors import RetryableError

if TYPE_CHECKING:
    from tenacity import RetryCallState

T = TypeVar("T")
Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]
Draw = Callable[[], float]

_HINT_SPREAD = 0.1


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to insist. A call is given up after `attempts`, or when the next attempt would come
    more than `give_up_after_s` seconds after its first failure.

    The wait is the server's hint, or `first_wait_s` doubled each time up to `longest_wait_s` and
    drawn from its upper half, whichever is longer.
    """

    attempts: int = 16
    give_up_after_s: float = 600.0
    first_wait_s: float = 0.5
    longest_wait_s: float = 30.0

    def wait_s(self, failures: int, hint_s: float | None, drawn: float) -> float:
        """Seconds before the next attempt; `drawn` is uniform in 0..1."""
        longest = min(self.longest_wait_s, self.first_wait_s * 2.0 ** (failures - 1))
        backoff = longest * (0.5 + 0.5 * drawn)
        if hint_s is None:
            return backoff
        # Calls that were refused together must not come back together.
        return max(hint_s * (1.0 + _HINT_SPREAD * drawn), backoff)


async def persistently(
    attempt: Callable[[], Awaitable[T]],
    patience: Patience,
    *,
    sleep: Sleep,
    clock: Clock = time.monotonic,
    draw: Draw = random.random,
) -> T:
    """The result of `attempt`, made again while it raises a `RetryableError` and patience lasts.

    Raises the last `RetryableError`, with what was tried in its message, and any other error of
    `attempt` at once.
    """
    try:
        return await attempt()
    except RetryableError as error:
        first = error
    # Settings name `Patience` where no call is made, also where tenacity is not installed.
    from tenacity import AsyncRetrying, retry_if_exception_type

    course = _Course(patience, clock, draw)
    # Most calls succeed at once, and need none of this; the failure is replayed as the first try.
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(RetryableError),
        wait=course.wait_s,
        stop=course.is_over,
        sleep=sleep,
        reraise=True,
    )
    try:
        return await retrying(_after(first, attempt))
    except RetryableError as error:
        given_up = course.given_up(error)
    raise given_up


def _after(
    first: RetryableError, attempt: Callable[[], Awaitable[T]]
) -> Callable[[], Awaitable[T]]:
    """Raises `first` the first time, then makes attempts."""
    failures = [first]

    async def next_attempt() -> T:
        if failures:
            raise failures.pop()
        return await attempt()

    return next_attempt


class _Course:
    """The failures of one call so far."""

    def __init__(self, patience: Patience, clock: Clock, draw: Draw) -> None:
        self._patience = patience
        self._clock = clock
        self._draw = draw
        self._failed_at: float | None = None
        self._attempts = 0

    def wait_s(self, state: RetryCallState) -> float:
        self._attempts = state.attempt_number
        if self._failed_at is None:
            self._failed_at = self._clock()
        failure = None if state.outcome is None else state.outcome.exception()
        hint = failure.retry_after_s if isinstance(failure, RetryableError) else None
        return self._patience.wait_s(self._attempts, hint, self._draw())

    def is_over(self, state: RetryCallState) -> bool:
        return (
            state.attempt_number >= self._patience.attempts
            or self._elapsed() + state.upcoming_sleep > self._patience.give_up_after_s
        )

    def given_up(self, error: RetryableError) -> RetryableError:
        told = copy.copy(error)
        hint = error.retry_after_s
        tried = f"{self._attempts} attempt(s) in {self._elapsed():,.0f} s"
        asked = "" if hint is None else f" (the server asks to wait {hint:,.0f} s)"
        told.given_up = f"{error}; given up after {tried}{asked}"
        told.args = (
            f"{told.given_up}. Start again when the server is well: what is stored is kept",
        )
        told.__cause__ = error.__cause__
        return told

    def _elapsed(self) -> float:
        return 0.0 if self._failed_at is None else self._clock() - self._failed_at
