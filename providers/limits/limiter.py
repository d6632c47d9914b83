"""What every call to one model with one key goes through."""

from __future__ import annotations

import asyncio
import random
import time
import weakref
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from providers import halting
from providers.errors import (
    Overloaded,
    ProviderError,
    RateLimited,
    RequestError,
    RequestFailed,
    RetryableError,
    Unreachable,
)
from providers.limits.breaker import Breaker
from providers.limits.bucket import Bucket, Quota
from providers.limits.evidence import Errand, Evidence, Mark
from providers.limits.patience import Clock, Draw, Patience, Sleep, persistently
from providers.limits.slots import START, AdaptiveLimit, Slots
from providers.limits.window import Use, Window
from providers.usage import FREE, UNCOUNTED, Attempts

T = TypeVar("T")
Kind = Literal["requests", "tokens"]

_REFUSED_IN_A_ROW = 3
_ANY = Errand()
_OF_ALL_CALLS = (RateLimited, Unreachable)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a user allows. Without budgets per minute the server's own are followed where it tells
    them; `tokens_per_minute` counts prompts and the most that answers may have.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    max_concurrent: int = 512
    patience: Patience = field(default_factory=Patience)

    @property
    def budgets(self) -> dict[Kind, float]:
        """The budgets per minute that are set."""
        both: dict[Kind, float | None] = {
            "requests": self.requests_per_minute,
            "tokens": self.tokens_per_minute,
        }
        return {kind: budget for kind, budget in both.items() if budget is not None}

    def windows(self, clock: Clock = time.monotonic) -> dict[Kind, Window]:
        """What keeps the budgets, with nothing sent so far."""
        return {kind: Window(budget, clock=clock) for kind, budget in self.budgets.items()}


class Limiter:
    """Slots, budgets, retries and the breaker around calls to one model with one key.

    For one event loop. What an earlier limiter has sent counts in its `windows`. `clock`, `sleep`
    and `draw` (uniform in 0..1) are for tests.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        breaker: Breaker | None = None,
        windows: Mapping[Kind, Window] | None = None,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
        draw: Draw = random.random,
    ) -> None:
        self._patience = limits.patience
        self._clock = clock
        self._draw = draw
        self.breaker = breaker or Breaker(sleep=sleep)
        most = limits.max_concurrent
        self.slots = Slots(AdaptiveLimit(most, start=START, clock=clock))
        self.breaker.on_trip(self.slots.dismiss)
        # The bucket spreads a minute's requests over it, the window sees that no minute has more.
        self._windows = limits.windows(clock) if windows is None else windows
        self._buckets = {
            kind: Bucket.per_minute(budget, clock=clock) for kind, budget in limits.budgets.items()
        }
        self._outstanding: dict[Kind, float] = {"requests": 0.0, "tokens": 0.0}
        self._heard: dict[Kind, Quota] = {}
        self.evidence = Evidence()
        self._refusals = 0
        self._closed_until = clock()

    async def call(
        self,
        work: Callable[[], Awaitable[T]],
        tokens: float = 0.0,
        errand: Errand = _ANY,
        attempts: Attempts = UNCOUNTED,
        *,
        follows: bool = False,
    ) -> T:
        """The result of `work`, called as often as its `RetryableError`s and patience allow.

        `tokens` is the most that the call may use. `attempts` is told before each attempt; what
        came of one that was sent, `work` tells it. A call that `follows` from one that was made
        goes ahead of those that were not: half of something is of no use. Raises the `RequestError`
        of `work`, and `RequestFailed` where patience ends and the call itself is at fault; any
        other `ProviderError` and a `RetryableError` that outlasted patience stop all calls of this
        limiter, those that wait included, which then raise the same error.
        """
        attempts.report_all()
        cost: dict[Kind, float] = {"requests": 1.0, "tokens": tokens}
        journey = _Journey(self, work, cost, errand, attempts, follows=follows)
        given_up: str | None = None
        try:
            return await persistently(
                journey.attempt,
                self._patience,
                sleep=self.breaker.pause,
                clock=self._clock,
                draw=self._draw,
            )
        except RequestError:
            raise
        except ProviderError as error:
            if isinstance(error, RetryableError) and not isinstance(error, _OF_ALL_CALLS):
                given_up = error.given_up
                if self._blames_call(errand, journey.mark):
                    raise RequestFailed(
                        f"{given_up}, while the server answers others; it is asked again when the "
                        "run is started again"
                    ) from error
            self.breaker.trip(error)
        except _Stopped:
            pass
        finally:
            journey.end()
        stopped = await self.breaker.stopped()
        if isinstance(stopped, RetryableError):
            # The others have not been asked in vain, and some errors are of no single call.
            stopped.given_up = given_up
        raise stopped

    def observe(self, kind: Kind, quota: Quota) -> None:
        """Follow a budget that the answer to the call being made tells; budgets of the user's own
        stay as they are.
        """
        if kind not in self._windows and quota.plausible:
            self._heard[kind] = quota

    def _blames_call(self, errand: Errand, mark: Mark | None) -> bool:
        if mark is None or self.breaker.tripped:
            return False
        return self.evidence.blames_call(errand, mark)

    async def _budgeted(self, cost: Mapping[Kind, float]) -> None:
        """Wait for the budgets. Raises `RateLimited` when that would outlast patience."""
        wait_s = self._closed_until - self._clock()
        for kind, bucket in self._buckets.items():
            wait_s = max(wait_s, bucket.reserve(cost[kind]))
        wait_s = max(wait_s, self._full_s(cost))
        if wait_s > self._patience.give_up_after_s:
            raise RateLimited(
                f"the budget per minute is used up for {wait_s:,.0f} s", retry_after_s=wait_s
            )
        while wait_s > 0 and not self.breaker.tripped:
            await self.breaker.pause(wait_s)
            wait_s = self._full_s(cost)

    def _full_s(self, cost: Mapping[Kind, float]) -> float:
        waits = (window.wait_s(cost[kind]) for kind, window in self._windows.items())
        return max(waits, default=0.0)

    def _reserve(self, cost: Mapping[Kind, float]) -> None:
        for kind, amount in cost.items():
            self._outstanding[kind] += amount

    def _departs(self, cost: Mapping[Kind, float]) -> Mapping[Kind, Use]:
        self.breaker.depart()
        return {kind: window.send(cost[kind]) for kind, window in self._windows.items()}

    def _arrives(self, uses: Mapping[Kind, Use]) -> None:
        for kind, use in uses.items():
            self._windows[kind].answered(use)
        self.breaker.arrive()

    def _settle(self, cost: Mapping[Kind, float], *, sent: bool) -> None:
        for kind, amount in cost.items():
            self._outstanding[kind] -= amount
            if not sent and kind in self._buckets:
                self._buckets[kind].give_back(amount)
        while self._heard:
            kind, quota = self._heard.popitem()
            if kind not in self._buckets:
                self._buckets[kind] = Bucket(quota.limit, 1.0, clock=self._clock)
            self._buckets[kind].observe(quota, self._outstanding[kind])

    def _succeeded(self, errand: Errand) -> None:
        self._refusals = 0
        self.evidence.answered(errand)
        self.slots.limit.succeeded()

    def _failed(self, error: RetryableError) -> None:
        if not isinstance(error, RateLimited):
            return
        self.slots.limit.rate_limited()
        self._refusals += 1
        # One refusal may be chance; some in a row mean that everybody has to wait.
        if self._refusals >= _REFUSED_IN_A_ROW and error.retry_after_s is not None:
            longest = self._clock() + min(error.retry_after_s, self._patience.give_up_after_s)
            self._closed_until = max(self._closed_until, longest)


class _Stopped(Exception):
    """The breaker was tripped before the call went out."""


class _Journey(Generic[T]):
    """One call, from waiting for its slot to its last attempt."""

    def __init__(
        self,
        limiter: Limiter,
        work: Callable[[], Awaitable[T]],
        cost: Mapping[Kind, float],
        errand: Errand,
        attempts: Attempts,
        *,
        follows: bool,
    ) -> None:
        self._limiter = limiter
        self._work = work
        self._cost = cost
        self._errand = errand
        self._attempts = attempts
        self.mark: Mark | None = None
        self._has_slot = False
        self._goes_first = follows

    async def attempt(self) -> T:
        limiter = self._limiter
        if not self._attempts.is_reserved:
            # Whoever waits for money waits for others, which may need its place for their own.
            self.end()
            await self._attempts.reserve()
        if not self._has_slot:
            self._has_slot = await limiter.slots.take(first=self._goes_first)
        self._goes_first = True
        try:
            result = await self._sent()
        except RetryableError as error:
            limiter._failed(error)
            if self.mark is None:
                self.mark = limiter.evidence.mark(self._errand)
            # A server that asks for less is given less: the call keeps its slot while it waits.
            if not isinstance(error, (RateLimited, Overloaded)):
                self.end()
            raise
        limiter._succeeded(self._errand)
        return result

    async def _sent(self) -> T:
        limiter, departed, sent = self._limiter, False, False
        limiter._reserve(self._cost)
        try:
            await limiter._budgeted(self._cost)
            if limiter.breaker.tripped:
                raise _Stopped
            uses, departed = limiter._departs(self._cost), True
            try:
                await self._attempts.begin()
                sent = True
                return await self._work()
            finally:
                limiter._arrives(uses)
        finally:
            limiter._settle(self._cost, sent=departed)
            if not sent:
                self._attempts.record_failure(FREE)

    def end(self) -> None:
        if self._has_slot:
            self._has_slot = False
            self._limiter.slots.give_back()


_breakers: weakref.WeakValueDictionary[tuple[int, str], Breaker] = weakref.WeakValueDictionary()
_limiters: weakref.WeakValueDictionary[tuple[int, str, str], Limiter] = (
    weakref.WeakValueDictionary()
)
# Small, and kept for good: what was sent a moment ago counts for whoever comes next.
_windows: dict[tuple[str, str, Kind, float], Window] = {}


def shared(account: str, model: str, limits: Limits) -> Limiter:
    """The limiter for `model` with the key behind `account`, the same for all who ask meanwhile.

    All models of an account stop together. After a stop, asking again gives a fresh start, in which
    the budgets of the user go on from where they were.
    """
    loop = id(asyncio.get_running_loop())
    breaker = _breakers.get((loop, account))
    if breaker is None or breaker.tripped:
        breaker = _breakers[loop, account] = Breaker()
        halting.of_this_loop().register(breaker)
    limiter = _limiters.get((loop, account, model))
    if limiter is None or limiter.breaker is not breaker:
        windows = {
            kind: _windows.setdefault((account, model, kind, budget), fresh)
            for (kind, budget), fresh in zip(
                limits.budgets.items(), limits.windows().values(), strict=True
            )
        }
        limiter = Limiter(limits, breaker=breaker, windows=windows)
        _limiters[loop, account, model] = limiter
    return limiter
