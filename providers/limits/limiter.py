"""The limiter: what every call to one model with one key goes through."""

from __future__ import annotations

import asyncio
import random
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from providers.errors import (
    Overloaded,
    ProviderError,
    RateLimited,
    RequestError,
    RequestFailed,
    RetryableError,
    Unreachable,
)
from providers.limits.breaker import Breaker, get_breakers
from providers.limits.concurrency import START, AdaptiveLimit, Slots
from providers.limits.evidence import CallContext, Evidence, Mark
from providers.limits.rates import Quota, SlidingWindow, TokenBucket
from providers.limits.retry import Clock, Draw, RetryPolicy, Sleep, make_retrying
from providers.usage import FREE, UNCOUNTED, Attempts

T = TypeVar("T")
Kind = Literal["requests", "tokens"]
Cost = Mapping[Kind, float]

_REFUSED_IN_A_ROW = 3
_ANY = CallContext()
_OF_ALL_CALLS = (RateLimited, Unreachable)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a user allows. Without limits per minute, those that the server reports are followed.

    `tokens_per_minute` counts prompts and the most that answers may have. Example:
    `Limits(requests_per_minute=500, max_concurrent=64)`.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    max_concurrent: int = 512
    start_concurrent: int = START
    retry_policy: RetryPolicy = field(default_factory=RetryPolicy)

    @property
    def per_minute(self) -> dict[Kind, float]:
        """The limits per minute that are set."""
        both: dict[Kind, float | None] = {
            "requests": self.requests_per_minute,
            "tokens": self.tokens_per_minute,
        }
        return {kind: limit for kind, limit in both.items() if limit is not None}

    def make_windows(self, clock: Clock = time.monotonic) -> dict[Kind, SlidingWindow]:
        """What keeps the limits per minute, with nothing sent so far."""
        return {kind: SlidingWindow(limit, clock=clock) for kind, limit in self.per_minute.items()}


class Limiter:
    """Slots, limits per minute, retries and the breaker around calls to one model with one key.

    Example: `await get_limiter("https://server key", "m", Limits()).call(send_request)`.

    For one event loop. What an earlier limiter has sent counts in its `windows`. `clock`, `sleep`
    and `draw` (uniform in 0..1) are for tests.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        breaker: Breaker | None = None,
        windows: Mapping[Kind, SlidingWindow] | None = None,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
        draw: Draw = random.random,
    ) -> None:
        self._policy = limits.retry_policy
        self._clock = clock
        self._draw = draw
        self.breaker = breaker or Breaker(sleep=sleep)
        start = limits.start_concurrent
        self.slots = Slots(AdaptiveLimit(limits.max_concurrent, start=start, clock=clock))
        self.breaker.on_trip(self.slots.close)
        # The bucket spreads a minute's requests over it, the window sees that no minute has more.
        self._windows = limits.make_windows(clock) if windows is None else windows
        self._buckets = {
            kind: TokenBucket.per_minute(limit, clock=clock)
            for kind, limit in limits.per_minute.items()
        }
        self._outstanding: dict[Kind, float] = {"requests": 0.0, "tokens": 0.0}
        self._reported: dict[Kind, Quota] = {}
        self.evidence = Evidence()
        self._refusals = 0
        self._closed_until = clock()

    async def call(
        self,
        work: Callable[[], Awaitable[T]],
        tokens: float = 0.0,
        context: CallContext = _ANY,
        attempts: Attempts = UNCOUNTED,
        *,
        follows: bool = False,
    ) -> T:
        """The result of `work`, called again after a `RetryableError` as the policy allows.

        `tokens` is the most that the call may use. The limiter reports to `attempts` when an
        attempt begins; `work` reports how one that was sent ended. A call that `follows` one that
        was made goes ahead of others: half of a conversation is of no use.

        Raises the `RequestError` of `work`, and `RequestFailed` if retries are used up and the call
        itself is at fault. Any other `ProviderError`, and a `RetryableError` after all retries,
        stops all calls of this limiter; the waiting ones raise the same error.
        """
        attempts.report_all()
        call = _Call(self, {"requests": 1.0, "tokens": tokens}, context, attempts, first=follows)
        retrying = make_retrying(
            self._policy, sleep=self.breaker.pause, clock=self._clock, draw=self._draw
        )
        given_up: str | None = None
        # Inside `with attempt` tenacity keeps what is raised. At the next turn of the loop it waits
        # and goes round again, or raises it from the `async for`.
        try:
            async for attempt in retrying:
                with attempt:
                    async with call.prepare_attempt():
                        return await work()
        except RequestError:
            raise
        except ProviderError as error:
            if isinstance(error, RetryableError) and not isinstance(error, _OF_ALL_CALLS):
                given_up = error.given_up
                if self._blames_call(context, call.mark):
                    raise RequestFailed(
                        f"{given_up}, while the server answers others; it is asked again when the "
                        "run is started again"
                    ) from error
            # A failure that no later call can escape (no credit, server down): stop them all now.
            self.breaker.trip(error)
        except _Stopped:
            # Another call tripped the breaker; its error is raised below.
            pass
        finally:
            call.release_slot()
        stopped = await self.breaker.wait_for_error()
        if isinstance(stopped, RetryableError):
            # Only this call was tried until retries were used up; the other stopped calls were not.
            stopped.given_up = given_up
        raise stopped

    def observe(self, kind: Kind, quota: Quota) -> None:
        """Follow a limit that the server reports with an answer; the user's own limits stay."""
        if kind not in self._windows and quota.plausible:
            self._reported[kind] = quota

    def _blames_call(self, context: CallContext, mark: Mark | None) -> bool:
        # Once all calls are stopped, their failures say nothing about a single one.
        if mark is None or self.breaker.tripped:
            return False
        return self.evidence.blames_call(context, mark)

    async def _wait_for_rates(self, cost: Cost) -> None:
        """Wait for the limits per minute. Raises `RateLimited` if that outlasts the policy."""
        wait_s = self._closed_until - self._clock()
        # Every bucket takes its share before the wait, so that calls queue in the order they come.
        for kind, bucket in self._buckets.items():
            wait_s = max(wait_s, bucket.reserve(cost[kind]))
        wait_s = max(wait_s, self._window_wait_s(cost))
        if wait_s > self._policy.give_up_after_s:
            raise RateLimited(
                f"the budget per minute is used up for {wait_s:,.0f} s", retry_after_s=wait_s
            )
        # Other calls may fill the window meanwhile, so it is read again after every pause.
        while wait_s > 0 and not self.breaker.tripped:
            await self.breaker.pause(wait_s)
            wait_s = self._window_wait_s(cost)

    def _window_wait_s(self, cost: Cost) -> float:
        waits = (window.wait_s(cost[kind]) for kind, window in self._windows.items())
        return max(waits, default=0.0)

    @contextmanager
    def _in_flight(self, cost: Cost) -> Iterator[None]:
        """Around the time a request is at the server."""
        self.breaker.begin()
        uses = {kind: window.record_sent(cost[kind]) for kind, window in self._windows.items()}
        try:
            yield
        finally:
            for kind, use in uses.items():
                self._windows[kind].record_arrival(use)
            self.breaker.end()

    def _reserve(self, cost: Cost) -> None:
        for kind, amount in cost.items():
            self._outstanding[kind] += amount

    def _settle(self, cost: Cost, *, sent: bool) -> None:
        for kind, amount in cost.items():
            self._outstanding[kind] -= amount
            # A request that did not go out uses nothing of the server's limits.
            if not sent and kind in self._buckets:
                self._buckets[kind].give_back(amount)
        # Only now is this call's share counted in `remaining` and no longer in `_outstanding`.
        while self._reported:
            kind, quota = self._reported.popitem()
            if kind not in self._buckets:
                self._buckets[kind] = TokenBucket(quota.limit, 1.0, clock=self._clock)
            self._buckets[kind].observe(quota, self._outstanding[kind])

    def _record_success(self, context: CallContext) -> None:
        self._refusals = 0
        self.evidence.record_answer(context)
        self.slots.limit.record_success()

    def _record_failure(self, error: RetryableError) -> None:
        if not isinstance(error, RateLimited):
            return
        self.slots.limit.record_rate_limit()
        self._refusals += 1
        # One refusal may be chance; some in a row mean that all calls have to wait.
        if self._refusals >= _REFUSED_IN_A_ROW and error.retry_after_s is not None:
            longest = self._clock() + min(error.retry_after_s, self._policy.give_up_after_s)
            self._closed_until = max(self._closed_until, longest)


class _Stopped(Exception):
    """The breaker was tripped before the call went out."""


class _Call:
    """One call, from waiting for its slot to its last attempt."""

    def __init__(
        self,
        limiter: Limiter,
        cost: Cost,
        context: CallContext,
        attempts: Attempts,
        *,
        first: bool,
    ) -> None:
        self._limiter = limiter
        self._cost = cost
        self._context = context
        self._attempts = attempts
        self.mark: Mark | None = None
        self._has_slot = False
        self._goes_first = first

    @asynccontextmanager
    async def prepare_attempt(self) -> AsyncIterator[None]:
        """Around one attempt: wait until it may be sent, then record how it ended.

        A context manager and no function around the attempt: so a traceback from inside a request
        is short, and shows the request.
        """
        limiter = self._limiter
        await self._take_slot()
        try:
            async with self._permit():
                yield
        except RetryableError as error:
            limiter._record_failure(error)
            # The evidence counts from the call's first failure, before which nothing was wrong.
            if self.mark is None:
                self.mark = limiter.evidence.mark(self._context)
            # A server that asks for less is given less: the call keeps its slot while it waits.
            if not isinstance(error, (RateLimited, Overloaded)):
                self.release_slot()
            raise
        limiter._record_success(self._context)

    async def _take_slot(self) -> None:
        if not self._attempts.is_reserved:
            # A call that waits for money waits for other calls, which may need its slot to end.
            self.release_slot()
            await self._attempts.reserve()
        if not self._has_slot:
            self._has_slot = await self._limiter.slots.take(first=self._goes_first)
        # A call that has failed once has waited longer than all that come after it.
        self._goes_first = True

    @asynccontextmanager
    async def _permit(self) -> AsyncIterator[None]:
        """Wait for limits per minute and the payer's record; settle both after the attempt."""
        limiter, departed, begun = self._limiter, False, False
        limiter._reserve(self._cost)
        try:
            await limiter._wait_for_rates(self._cost)
            # No await between this check and `_in_flight`, or a call could leave after the stop.
            if limiter.breaker.tripped:
                raise _Stopped
            with limiter._in_flight(self._cost):
                departed = True
                await self._attempts.begin()
                begun = True
                yield
        finally:
            limiter._settle(self._cost, sent=departed)
            # Also after a stop or a cancellation: the payer's record must not stay open.
            if not begun:
                self._attempts.record_failure(FREE)

    def release_slot(self) -> None:
        """Give the slot back, if the call has one."""
        if self._has_slot:
            self._has_slot = False
            self._limiter.slots.give_back()


_breakers: weakref.WeakValueDictionary[tuple[int, str], Breaker] = weakref.WeakValueDictionary()
_limiters: weakref.WeakValueDictionary[tuple[int, str, str], Limiter] = (
    weakref.WeakValueDictionary()
)
# Small, and kept for the whole process: a limiter that is made later counts what was sent before.
_windows: dict[tuple[str, str, Kind, float], SlidingWindow] = {}


def get_limiter(account: str, model: str, limits: Limits) -> Limiter:
    """The limiter for `model` with the key behind `account`, one for all its callers.

    All models of an account stop together. After a stop the next call of this function gives a new
    limiter, in whose minutes the requests of the old one still count.
    """
    # Futures belong to one event loop, so another loop (a second run in a notebook) gets its own.
    loop = id(asyncio.get_running_loop())
    breaker = _breakers.get((loop, account))
    if breaker is None or breaker.tripped:
        breaker = _breakers[loop, account] = Breaker()
        get_breakers().register(breaker)
    limiter = _limiters.get((loop, account, model))
    if limiter is None or limiter.breaker is not breaker:
        windows = {
            kind: _windows.setdefault((account, model, kind, limit), fresh)
            for (kind, limit), fresh in zip(
                limits.per_minute.items(), limits.make_windows().values(), strict=True
            )
        }
        limiter = Limiter(limits, breaker=breaker, windows=windows)
        _limiters[loop, account, model] = limiter
    return limiter
