"""How files, jobs and batches reach the server: through one caller and one way of paging."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import aiohttp
from openai import APIStatusError, omit
from openai._types import Omit
from openai.pagination import AsyncCursorPage

from providers import halting
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
from providers.limits.patience import Patience, Sleep, persistently
from providers.openai.errors import translate_error
from providers.openai.settings import LISTING_LAG_S, Secrets

T = TypeVar("T")
Fetch = Callable[[str | Omit], Awaitable[AsyncCursorPage[T]]]
Way = Callable[[Callable[[], Awaitable[tuple[list[T], bool]]]], Awaitable[tuple[list[T], bool]]]

ATTEMPTS = 6
_LONGEST_PAUSE_S = 60.0
_UNREACHED = (ConnectionRefusedError, socket.gaierror, aiohttp.ClientConnectorError)


class UnreadableAnswer(Overloaded):
    """The server answered well, and with something else than what was asked for."""


class Caller:
    """Makes the calls about files, jobs and batches of one account.

    They are few and each is different, so they pass by the limits that the chat calls share; a
    failing one must not stop those either. Raises nothing but `providers.errors`.
    """

    def __init__(
        self,
        secrets: Secrets,
        model: str,
        patience: Patience | None = None,
        *,
        timeout_s: float | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._timeout_s = timeout_s
        self._secrets = secrets
        self._model = model
        self._patience = patience or Patience()
        self.sleep = sleep

    async def once(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make the call, whatever comes of it."""
        try:
            return await asyncio.wait_for(call(), self._timeout_s)
        except Exception as error:
            if isinstance(error, ProviderError):
                raise
            told = translate_error(error, self._secrets, self._model)
            # Where the answer is no JSON the package trips over it with one of these.
            if told is None and isinstance(error, ValueError | AttributeError | TypeError):
                told = UnreadableAnswer("the server's answer is not the JSON that was asked for")
            if told is None:
                raise
            cause = _find_cause(error)
        # Raised outside the handler: no chain may lead to what a server said, unscrubbed.
        raise told from cause

    async def patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make the call, and again while it raises a `RetryableError` and patience lasts."""

        async def attempt() -> T:
            return await self.once(call)

        return await persistently(attempt, self._patience, sleep=self.sleep)

    def scrubbed(self, text: str) -> str:
        """What a server said, without the secrets it may have repeated."""
        return self._secrets.scrubbed(text)


async def list_items(way: Way[T], what: str, fetch: Fetch[T]) -> AsyncIterator[T]:
    """Every item of a listing; `fetch` gets the id the next page starts behind, and is called the
    given `way`: a caller's `once` or `patiently`.

    A server that knows no paging answers with the same items every time; they are given once.
    """
    async for page in list_pages(way, what, fetch):
        for item in page:
            yield item


async def list_pages(way: Way[T], what: str, fetch: Fetch[T]) -> AsyncIterator[list[T]]:
    """Like `listed`, a page at a time, so that the caller can stop early."""
    seen: set[str] = set()
    after: str | Omit = omit
    while True:

        async def page(cursor: str | Omit = after) -> tuple[list[T], bool]:
            found = await fetch(cursor)
            items = getattr(found, "data", None)
            if not isinstance(items, list):
                raise UnreadableAnswer(
                    f"the server answered the list of {what} with something else"
                )
            return items, getattr(found, "has_more", None) is not False

        items, more = await way(page)
        fresh = [item for item in items if require_id(item) not in seen]
        seen.update(require_id(item) for item in fresh)
        if fresh:
            yield fresh
        if not fresh or not more:
            return
        after = require_id(items[-1])


def compute_pause(
    error: ProviderError | None, attempt: int, longest_s: float = _LONGEST_PAUSE_S
) -> float:
    """Seconds to wait after failure number `attempt` (from 0) of what must not be sent blindly.

    Such calls are not left to the caller's own patience: between two of them somebody has to look.
    """
    hint = error.retry_after_s if isinstance(error, RetryableError) else None
    return max(hint or 0.0, min(longest_s, 2.0 ** min(attempt, 16)))


def require_id(item: object) -> str:
    """The id the server gave an object; raises `Unreadable` for an answer without one.

    The openai package checks nothing it parses, and a 200 may carry anything.
    """
    found = getattr(item, "id", None)
    if not isinstance(found, str) or not found:
        raise UnreadableAnswer("the server answered with an object that has no id")
    return found


class StatusCause(Exception):
    """The cause of a translated error: the server answered with this HTTP status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP status {status}")
        self.status = status


class NoConnectionCause(Exception):
    """The cause of a translated error: there was no connection to send anything over."""


def find_status(error: BaseException) -> int | None:
    """The HTTP status behind an error of a `Caller`, None where there was no answer."""
    return error.__cause__.status if isinstance(error.__cause__, StatusCause) else None


def is_unreachable(error: BaseException) -> bool:
    """Whether an error of a `Caller` says that there is nothing at the address."""
    return isinstance(error.__cause__, NoConnectionCause)


def _find_cause(error: Exception) -> Exception | None:
    if isinstance(error, APIStatusError):
        return StatusCause(error.status_code)
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, _UNREACHED):
            return NoConnectionCause("no connection")
        link = link.__cause__ or link.__context__
    return None


SUBMISSIONS = 3
"""How often in a row something is submitted of which nothing can be found afterwards."""

_log = logging.getLogger(__name__)
_NOT_READY = ("not ready", "being processed", "still processing")
# A vendor that takes a few jobs at a time refuses the next one until one of them has ended.
_TURN_S = 24 * 3600.0
_LONGEST_TURN_PAUSE_S = 300.0
# Behind a gateway that gave up waiting, or a broken connection, the server may be at work still.
_SILENT = frozenset({408, 502, 504, 520, 522, 523, 524})
_SILENT_LAGS = 2.0


async def create_once(
    caller: Caller,
    what: str,
    create: Callable[[], Awaitable[T]],
    lag_s: float = LISTING_LAG_S,
) -> T:
    """Send `create`, again only where the server has certainly not taken it.

    That is so for a rate limit, which is waited out for up to a day, for a connection that never
    came about, and for a file that is not ready yet. Any other passing failure, and an answer that
    cannot be read, leaves open whether `what` exists: `AmbiguousSubmission`, which settles in
    `lag_s` seconds, or in a multiple of them where the server has not answered. Clean refusals are
    raised as the caller translates them.
    """

    async def checked() -> T:
        created = await create()
        require_id(created)
        return created

    waited, attempts = 0.0, 0
    while True:
        try:
            async with halting.of_this_loop().passing():
                return await caller.once(checked)
        except RateLimited as error:
            pause = compute_pause(error, attempts, _LONGEST_TURN_PAUSE_S)
            if waited + pause > _TURN_S:
                raise
            _log.warning("%s waits %.0f s: %s", what, pause, error)
            waited += pause
        except (RetryableError, BadRequest) as error:
            if not _is_certainly_not_created(error):
                if isinstance(error, BadRequest):
                    raise
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
    return isinstance(error.__cause__, NoConnectionCause)


def _compute_settling_time(error: RetryableError, lag_s: float) -> float | None:
    """Seconds after which what was created would be listed; None for a success that is garbled."""
    status = find_status(error)
    if status in _SILENT or (status is None and isinstance(error, ConnectionLost | TimedOut)):
        return _SILENT_LAGS * lag_s
    return lag_s if status is not None and status >= 400 else None
