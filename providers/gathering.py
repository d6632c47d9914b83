"""Many coroutines at a time, of which none outlives a failure of another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TypeVar

T = TypeVar("T")


async def gather_or_cancel(works: Sequence[Awaitable[T]], in_flight: int | None = None) -> list[T]:
    """The results in order; after a failure the others are cancelled before it is raised.

    `in_flight` bounds how many run at a time.

    >>> await gather_or_cancel([asyncio.sleep(0, "a"), asyncio.sleep(0, "b")])
    ['a', 'b']
    """
    # asyncio.TaskGroup does the same, and raises an ExceptionGroup; callers tell errors apart by
    # their type, and a second error would only be a consequence of the first.
    bounded = works if in_flight is None else _bound(works, asyncio.Semaphore(in_flight))
    tasks = [asyncio.ensure_future(work) for work in bounded]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _bound(works: Sequence[Awaitable[T]], gate: asyncio.Semaphore) -> list[Awaitable[T]]:
    async def wait_for_turn(work: Awaitable[T]) -> T:
        async with gate:
            return await work

    return [wait_for_turn(work) for work in works]
