"""How files, jobs and batches reach the server: through one caller and one way of paging."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import aiohttp
from openai import APIStatusError, omit
from openai._types import Omit
from openai.pagination import AsyncCursorPage

from providers.errors import Overloaded, ProviderError, RetryableError
from providers.limits.patience import Patience, Sleep, persistently
from providers.openai.failures import translate
from providers.openai.secrets import Secrets

T = TypeVar("T")
Fetch = Callable[[str | Omit], Awaitable[AsyncCursorPage[T]]]
Way = Callable[[Callable[[], Awaitable[tuple[list[T], bool]]]], Awaitable[tuple[list[T], bool]]]

ATTEMPTS = 6
_LONGEST_PAUSE_S = 60.0
_UNREACHED = (ConnectionRefusedError, socket.gaierror, aiohttp.ClientConnectorError)


class Unreadable(Overloaded):
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
            told = translate(error, self._secrets, self._model)
            # Where the answer is no JSON the package trips over it with one of these.
            if told is None and isinstance(error, ValueError | AttributeError | TypeError):
                told = Unreadable("the server's answer is not the JSON that was asked for")
            if told is None:
                raise
            cause = _cause(error)
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


async def listed(way: Way[T], what: str, fetch: Fetch[T]) -> AsyncIterator[T]:
    """Every item of a listing; `fetch` gets the id the next page starts behind, and is called the
    given `way`: a caller's `once` or `patiently`.

    A server that knows no paging answers with the same items every time; they are given once.
    """
    async for page in pages(way, what, fetch):
        for item in page:
            yield item


async def pages(way: Way[T], what: str, fetch: Fetch[T]) -> AsyncIterator[list[T]]:
    """Like `listed`, a page at a time, so that the caller can stop early."""
    seen: set[str] = set()
    after: str | Omit = omit
    while True:

        async def page(cursor: str | Omit = after) -> tuple[list[T], bool]:
            found = await fetch(cursor)
            items = getattr(found, "data", None)
            if not isinstance(items, list):
                raise Unreadable(f"the server answered the list of {what} with something else")
            return items, getattr(found, "has_more", None) is not False

        items, more = await way(page)
        fresh = [item for item in items if identity(item) not in seen]
        seen.update(identity(item) for item in fresh)
        if fresh:
            yield fresh
        if not fresh or not more:
            return
        after = identity(items[-1])


def pause_s(
    error: ProviderError | None, attempt: int, longest_s: float = _LONGEST_PAUSE_S
) -> float:
    """Seconds to wait after failure number `attempt` (from 0) of what must not be sent blindly.

    Such calls are not left to the caller's own patience: between two of them somebody has to look.
    """
    hint = error.retry_after_s if isinstance(error, RetryableError) else None
    return max(hint or 0.0, min(longest_s, 2.0 ** min(attempt, 16)))


def identity(item: object) -> str:
    """The id the server gave an object; raises `Unreadable` for an answer without one.

    The openai package checks nothing it parses, and a 200 may carry anything.
    """
    found = getattr(item, "id", None)
    if not isinstance(found, str) or not found:
        raise Unreadable("the server answered with an object that has no id")
    return found


class AnsweredWith(Exception):
    """The cause of a translated error: the server answered with this HTTP status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP status {status}")
        self.status = status


class NeverSent(Exception):
    """The cause of a translated error: there was no connection to send anything over."""


def status_code(error: BaseException) -> int | None:
    """The HTTP status behind an error of a `Caller`, None where there was no answer."""
    return error.__cause__.status if isinstance(error.__cause__, AnsweredWith) else None


def never_sent(error: BaseException) -> bool:
    """Whether an error of a `Caller` says that there is nothing at the address."""
    return isinstance(error.__cause__, NeverSent)


def _cause(error: Exception) -> Exception | None:
    if isinstance(error, APIStatusError):
        return AnsweredWith(error.status_code)
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, _UNREACHED):
            return NeverSent("no connection")
        link = link.__cause__ or link.__context__
    return None
