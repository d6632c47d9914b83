"""Calls of the openai package about files, jobs and batches: what their failures mean, and paging.

`make_caller` makes the `Caller` of an account. `list_items` and `list_pages` read whole listings.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TypeVar

import aiohttp
from openai import APIStatusError, Omit, omit
from openai.pagination import AsyncCursorPage

from providers.calling import Caller, CallFailure, UnreadableAnswer
from providers.limits.retry import RetryPolicy, Sleep
from providers.openai.errors import translate_error
from providers.secrets import Secrets

T = TypeVar("T")
FetchPage = Callable[[str | Omit], Awaitable[AsyncCursorPage[T]]]
"""Fetches the page of a listing that begins after the object with this id."""
CallPage = Callable[
    [Callable[[], Awaitable[tuple[list[T], bool]]]], Awaitable[tuple[list[T], bool]]
]
"""How a page is fetched: `Caller.call_once` or `Caller.call_with_retry`."""

_NO_CONNECTION = (ConnectionRefusedError, socket.gaierror, aiohttp.ClientConnectorError)


def make_caller(
    secrets: Secrets,
    model: str,
    policy: RetryPolicy | None = None,
    *,
    timeout_s: float | None = None,
    sleep: Sleep = asyncio.sleep,
) -> Caller:
    """The caller of an account whose errors name `model`.

    Example: `make_caller(connection.secrets, "gpt-4.1-mini")`.
    """
    translate = partial(_translate, secrets, model)
    return Caller(translate, secrets.scrub, policy, timeout_s=timeout_s, sleep=sleep)


def _translate(secrets: Secrets, model: str, error: Exception) -> CallFailure | None:
    translated = translate_error(error, secrets, model)
    if translated is None:
        return None
    if isinstance(error, APIStatusError):
        return CallFailure(translated, error.status_code)
    return CallFailure(translated, sent=not _was_never_sent(error))


def _was_never_sent(error: Exception) -> bool:
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, _NO_CONNECTION):
            return True
        link = link.__cause__ or link.__context__
    return False


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


def require_id(item: object) -> str:
    """The id the server gave an object; raises `UnreadableAnswer` for an answer without one.

    The openai package validates nothing it parses, and an answer with status 200 may contain
    anything.
    """
    found = getattr(item, "id", None)
    if not isinstance(found, str) or not found:
        raise UnreadableAnswer("the server answered with an object that has no id")
    return found
