"""How a vendor's calls about files, jobs and deployments are made: retried, and paid for only once.

A vendor's package says what its failures mean (`Translate`, `CallFailure`); the rest is the same
for all vendors. `Caller` makes a call, with or without retries. `create_once` creates what costs
money: it sends a request again only if the vendor has certainly not created anything, and otherwise
raises `AmbiguousSubmission`, after which one looks for the object, for as long as the vendor's list
may lag behind. `attempt_paid` is one attempt of a chat call, reported to whoever pays.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from providers.errors import (
    AmbiguousSubmission,
    BadRequest,
    ConnectionLost,
    Overloaded,
    ProviderError,
    RateLimited,
    RetryableError,
    TimedOut,
)
from providers.limits import get_breakers
from providers.limits.retry import RetryPolicy, Sleep, retry
from providers.usage import Usage, current_attempts

T = TypeVar("T")

ATTEMPTS = 6
LISTING_LAG_S = 20.0
"""Seconds for which a server's list may not yet show an object that was just created."""

_log = logging.getLogger(__name__)
_LONGEST_PAUSE_S = 60.0
_NOT_READY = ("not ready", "being processed", "still processing")
# A vendor that takes a few jobs at a time refuses the next one until one of them has ended.
_LONGEST_QUEUE_S = 24 * 3600.0
_LONGEST_QUEUE_PAUSE_S = 300.0
# With these, a gateway stopped waiting or a connection broke; the server may still be at work, so
# the object may appear in the list later than usual.
_SILENT = frozenset({408, 502, 504, 520, 522, 523, 524})
_SILENT_LAGS = 2.0


@dataclass(frozen=True, slots=True)
class CallFailure:
    """What an exception of a vendor's package means: the error of ours, with a scrubbed message.

    `status` is the HTTP status of the answer, None if there was none; `sent` is False if no
    connection could be made; `billed` is what the vendor bills for the attempt, None if unknown.
    """

    error: ProviderError
    status: int | None = None
    sent: bool = True
    billed: Usage | None = None


Translate = Callable[[Exception], CallFailure | None]
"""What an exception means; None if it does not come from the connection, so that it is a bug."""


class UnreadableAnswer(Overloaded):
    """The server answered with a good status and with something else than what was asked for."""


class StatusCause(Exception):
    """The cause of a translated error: the server answered with this HTTP status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP status {status}")
        self.status = status


class NoConnectionCause(Exception):
    """The cause of a translated error: there was no connection, so nothing was sent."""


class Caller:
    """Makes the calls about files, jobs and deployments of one account.

    There are few such calls and each is different, so the limits of chat calls do not apply to
    them, and a failing one does not stop the chat calls. Raises only errors of `providers.errors`.
    `scrub` removes secrets from a server's words; `timeout_s` is for one attempt.

        caller = Caller(translate, secrets.scrub)
        job = await caller.call_with_retry(lambda: client.get_job(job_id))
    """

    def __init__(
        self,
        translate: Translate,
        scrub: Callable[[str], str],
        policy: RetryPolicy | None = None,
        *,
        timeout_s: float | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._translate = translate
        self.scrub = scrub
        self._policy = policy or RetryPolicy()
        self._timeout_s = timeout_s
        self.sleep = sleep

    async def call_once(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make the call, without a retry."""
        try:
            return await asyncio.wait_for(call(), self._timeout_s)
        except Exception as error:
            if isinstance(error, ProviderError):
                raise
            failure = self._explain(error)
            # A bug of ours, not of the server: let it through.
            if failure is None:
                raise
        # Raised outside the handler: a chained exception would show the server's unscrubbed words.
        raise failure.error from _make_cause(failure)

    async def call_with_retry(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make the call, again after each `RetryableError` as long as the policy allows."""

        async def attempt() -> T:
            return await self.call_once(call)

        return await retry(attempt, self._policy, sleep=self.sleep)

    def _explain(self, error: Exception) -> CallFailure | None:
        failure = self._translate(error)
        # Packages raise one of these when the answer is not the JSON they expect.
        if failure is None and isinstance(error, ValueError | AttributeError | TypeError):
            return CallFailure(UnreadableAnswer("the server's answer is not the JSON expected"))
        return failure


async def create_once(
    caller: Caller,
    what: str,
    create: Callable[[], Awaitable[T]],
    lag_s: float = LISTING_LAG_S,
) -> T:
    """Send `create`, and send it again only if the server has certainly not created anything.

    That is certain for a rate limit (waited out for up to a day), for a connection that could not
    be made, and for a file that is not ready yet. After any other passing failure, or an answer
    that cannot be read (`create` raises `UnreadableAnswer`), `what` may exist:
    `AmbiguousSubmission`, which settles in `lag_s` seconds, or in a multiple of them if the server
    has not answered. A clear refusal is raised as the caller translates it.
    """
    waited, attempts = 0.0, 0
    while True:
        try:
            async with get_breakers().pass_through():
                return await caller.call_once(create)
        # A rate limit is a clear refusal: nothing was created, so it is safe to send again.
        except RateLimited as error:
            pause = compute_pause(error, attempts, _LONGEST_QUEUE_PAUSE_S)
            if waited + pause > _LONGEST_QUEUE_S:
                raise
            _log.warning("%s waits %.0f s: %s", what, pause, error)
            waited += pause
        except (RetryableError, BadRequest) as error:
            if not _is_certainly_not_created(error):
                if isinstance(error, BadRequest):
                    raise
                # What is created twice is paid twice, so the caller has to look for it first.
                raise AmbiguousSubmission(
                    f"{what} may or may not have been created: {error}",
                    settles_in_s=_compute_settling_time(error, lag_s),
                ) from error
            pause = compute_pause(error, attempts)
            if attempts >= ATTEMPTS:
                raise
        attempts += 1
        await caller.sleep(pause)


async def attempt_paid(send: Callable[[], Awaitable[tuple[T, Usage]]], translate: Translate) -> T:
    """One attempt at a chat call, for `Limiter.call`; reports what it was billed to the payer.

    `send` returns the answer and its tokens. Raises errors of `providers.errors`.

        work = partial(attempt_paid, send, translate)
        answer = await limiter.call(work, tokens, context, current_attempts.get())
    """
    counter = current_attempts.get()
    try:
        answer, usage = await send()
    except Exception as error:
        failure = CallFailure(error) if isinstance(error, ProviderError) else translate(error)
        counter.record_failure(None if failure is None else failure.billed)
        if failure is None or failure.error is error:
            raise
    except BaseException:
        # A cancelled call may have been answered, and billed, all the same.
        counter.record_failure()
        raise
    else:
        counter.record_answer(usage)
        return answer
    # Raised outside the handler: a chained exception would show the server's unscrubbed words.
    raise failure.error from _make_cause(failure)


def compute_pause(
    error: ProviderError | None, attempt: int, longest_s: float = _LONGEST_PAUSE_S
) -> float:
    """Seconds to wait after failure number `attempt` (from 0) of a call that creates something.

    The caller's own retries are not used for such calls: between two of them one has to look
    whether the object exists.
    """
    hint = error.retry_after_s if isinstance(error, RetryableError) else None
    return max(hint or 0.0, min(longest_s, 2.0 ** min(attempt, 16)))


def find_status(error: BaseException) -> int | None:
    """The HTTP status behind an error of a `Caller`; None if there was no answer."""
    return error.__cause__.status if isinstance(error.__cause__, StatusCause) else None


def is_unreachable(error: BaseException) -> bool:
    """Whether an error of a `Caller` says that no connection could be made."""
    return isinstance(error.__cause__, NoConnectionCause)


def _make_cause(failure: CallFailure) -> Exception | None:
    if failure.status is not None:
        return StatusCause(failure.status)
    return None if failure.sent else NoConnectionCause("no connection")


def _is_certainly_not_created(error: RetryableError | BadRequest) -> bool:
    if isinstance(error, BadRequest):
        return any(words in str(error).lower() for words in _NOT_READY)
    return is_unreachable(error)


def _compute_settling_time(error: RetryableError, lag_s: float) -> float | None:
    """Seconds until a created object must be listed; None after a good status with a garbled body:
    the object exists, so not finding it proves nothing."""
    status = find_status(error)
    if status in _SILENT or (status is None and isinstance(error, ConnectionLost | TimedOut)):
        return _SILENT_LAGS * lag_s
    return lag_s if status is not None and status >= 400 else None
