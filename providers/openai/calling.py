"""How the calls about files, jobs and batches are made: retried, paged, and paid for only once.

`Caller` makes a call, with or without retries. `list_items` and `list_pages` read whole listings.
`create_once` creates what costs money: no server of this kind takes an idempotency key for jobs and
batches, so after an unknown outcome the only way is to look for the object, for as long as the list
may lag behind, before the request may be sent again.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import aiohttp
from openai import APIStatusError, Omit, omit
from openai.pagination import AsyncCursorPage

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
from providers.openai.errors import translate_error
from providers.openai.settings import LISTING_LAG_S, Secrets

T = TypeVar("T")
FetchPage = Callable[[str | Omit], Awaitable[AsyncCursorPage[T]]]
"""Fetches the page of a listing that begins after the object with this id."""
CallPage = Callable[
    [Callable[[], Awaitable[tuple[list[T], bool]]]], Awaitable[tuple[list[T], bool]]
]
"""How a page is fetched: `Caller.call_once` or `Caller.call_with_retry`."""

ATTEMPTS = 6
SUBMISSIONS = 3
"""How often something is submitted again if it cannot be found afterwards."""

_log = logging.getLogger(__name__)
_LONGEST_PAUSE_S = 60.0
_NO_CONNECTION = (ConnectionRefusedError, socket.gaierror, aiohttp.ClientConnectorError)
_NOT_READY = ("not ready", "being processed", "still processing")
# A vendor that takes a few jobs at a time refuses the next one until one of them has ended.
_LONGEST_QUEUE_S = 24 * 3600.0
_LONGEST_QUEUE_PAUSE_S = 300.0
# With these, a gateway stopped waiting or a connection broke; the server may still be at work, so
# the object may appear in the list later than usual.
_SILENT = frozenset({408, 502, 504, 520, 522, 523, 524})
_SILENT_LAGS = 2.0


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
    """Makes the calls about files, jobs and batches of one account.

    There are few such calls and each is different, so the limits of chat calls do not apply to
    them, and a failing one does not stop the chat calls. Raises only errors of `providers.errors`.

        caller = Caller(connection.secrets, "gpt-4.1-mini")
        job = await caller.call_with_retry(lambda: client.fine_tuning.jobs.retrieve(job_id))
    """

    def __init__(
        self,
        secrets: Secrets,
        model: str,
        policy: RetryPolicy | None = None,
        *,
        timeout_s: float | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._timeout_s = timeout_s
        self._secrets = secrets
        self._model = model
        self._policy = policy or RetryPolicy()
        self.sleep = sleep

    async def call_once(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make the call, without a retry."""
        try:
            return await asyncio.wait_for(call(), self._timeout_s)
        except Exception as error:
            if isinstance(error, ProviderError):
                raise
            translated = translate_error(error, self._secrets, self._model)
            # The package raises one of these when the answer is not the JSON it expects.
            if translated is None and isinstance(error, ValueError | AttributeError | TypeError):
                translated = UnreadableAnswer("the server's answer is not the JSON expected")
            # A bug of ours, not of the server: let it through.
            if translated is None:
                raise
            cause = _find_cause(error)
        # Raised outside the handler: a chained exception would show the server's unscrubbed words.
        raise translated from cause

    async def call_with_retry(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make the call, again after each `RetryableError` as long as the policy allows."""

        async def attempt() -> T:
            return await self.call_once(call)

        return await retry(attempt, self._policy, sleep=self.sleep)

    def scrub(self, text: str) -> str:
        """A server's words without the secrets that they may repeat."""
        return self._secrets.scrub(text)


async def list_items(call: CallPage[T], what: str, fetch_page: FetchPage[T]) -> AsyncIterator[T]:
    """Every item of a listing, each once; `what` names the items in errors.

    Example::

        list_items(caller.call_with_retry, "batches", fetch_page)
    """
    async for page in list_pages(call, what, fetch_page):
        for item in page:
            yield item


async def list_pages(
    call: CallPage[T], what: str, fetch_page: FetchPage[T]
) -> AsyncIterator[list[T]]:
    """Like `list_items`, but page by page, so that the user can stop early."""
    seen: set[str] = set()
    after: str | Omit = omit
    while True:

        async def fetch(cursor: str | Omit = after) -> tuple[list[T], bool]:
            found = await fetch_page(cursor)
            items = getattr(found, "data", None)
            if not isinstance(items, list):
                raise UnreadableAnswer(
                    f"the server answered the list of {what} with something else"
                )
            # Some servers leave `has_more` out, so only an explicit False ends the listing.
            return items, getattr(found, "has_more", None) is not False

        items, more = await call(fetch)
        # A server without paging returns the same items for every cursor, with `has_more` absent:
        # a page with nothing new is the end.
        fresh = [item for item in items if require_id(item) not in seen]
        seen.update(require_id(item) for item in fresh)
        if fresh:
            yield fresh
        if not fresh or not more:
            return
        after = require_id(items[-1])


async def create_once(
    caller: Caller,
    what: str,
    create: Callable[[], Awaitable[T]],
    lag_s: float = LISTING_LAG_S,
) -> T:
    """Send `create`, and send it again only if the server has certainly not created anything.

    That is certain for a rate limit (waited out for up to a day), for a connection that could not
    be made, and for a file that is not ready yet. After any other passing failure, or an answer
    that cannot be read, `what` may exist: `AmbiguousSubmission`, which settles in `lag_s` seconds,
    or in a multiple of them if the server has not answered. A clear refusal is raised as the caller
    translates it.
    """

    async def create_and_check() -> T:
        created = await create()
        require_id(created)
        return created

    waited, attempts = 0.0, 0
    while True:
        try:
            async with get_breakers().pass_through():
                return await caller.call_once(create_and_check)
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


def compute_pause(
    error: ProviderError | None, attempt: int, longest_s: float = _LONGEST_PAUSE_S
) -> float:
    """Seconds to wait after failure number `attempt` (from 0) of a call that creates something.

    The caller's own retries are not used for such calls: between two of them one has to look
    whether the object exists.
    """
    hint = error.retry_after_s if isinstance(error, RetryableError) else None
    return max(hint or 0.0, min(longest_s, 2.0 ** min(attempt, 16)))


def require_id(item: object) -> str:
    """The id the server gave an object; raises `UnreadableAnswer` for an answer without one.

    The openai package validates nothing it parses, and an answer with status 200 may contain
    anything.
    """
    found = getattr(item, "id", None)
    if not isinstance(found, str) or not found:
        raise UnreadableAnswer("the server answered with an object that has no id")
    return found


def find_status(error: BaseException) -> int | None:
    """The HTTP status behind an error of a `Caller`; None if there was no answer."""
    return error.__cause__.status if isinstance(error.__cause__, StatusCause) else None


def is_unreachable(error: BaseException) -> bool:
    """Whether an error of a `Caller` says that no connection could be made."""
    return isinstance(error.__cause__, NoConnectionCause)


def _find_cause(error: Exception) -> Exception | None:
    if isinstance(error, APIStatusError):
        return StatusCause(error.status_code)
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, _NO_CONNECTION):
            return NoConnectionCause("no connection")
        link = link.__cause__ or link.__context__
    return None
