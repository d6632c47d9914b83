"""Stopping in good order: what is paid for arrives and is stored, for at most `WAIT_S`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from providers.errors import Halted
from providers.limits import get_breakers
from society.terminal import signals

T = TypeVar("T")
Tell = Callable[[str], None]
End = Callable[["asyncio.Task[Any]"], Awaitable[None]]

WAIT_S = 60.0
_TOLD_EVERY_S = 10.0
# Long enough for what has arrived to be stored and voted on, where that ends by itself.
_GRACE_S = 1.0


def run(work: Coroutine[Any, Any, T], tell: Tell) -> T:
    """`asyncio.run`, where the first signal ends `work` in good order, as `tell` is told.

    Raises `KeyboardInterrupt` after that.
    """

    async def end(task: asyncio.Task[Any]) -> None:
        await _await_arrivals(task, tell)

    return run_until_stopped(work, end)


def run_until_stopped(work: Coroutine[Any, Any, T], end: End) -> T:
    """`asyncio.run`, where the first signal calls `end` with the task that does the work.

    Raises `KeyboardInterrupt` where the work has not come to its end by then.
    """
    task = asyncio.run(_supervised(work, end))
    if task is None:
        raise KeyboardInterrupt
    return task.result()


async def _supervised(work: Coroutine[Any, Any, T], end: End) -> asyncio.Task[T] | None:
    loop = asyncio.get_running_loop()
    task, stop = loop.create_task(work), asyncio.Event()
    stopped = loop.create_task(stop.wait())
    try:
        with signals.orderly(lambda: _call_in(loop, stop.set)):
            await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                await end(task)
                task.cancel()
                await asyncio.wait({task})
    finally:
        stopped.cancel()
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # or asyncio tells that nobody has asked for it
    if task.cancelled() or (stop.is_set() and isinstance(task.exception(), Halted)):
        return None
    return task


async def _await_arrivals(task: asyncio.Task[Any], tell: Tell) -> None:
    """Let nothing more out, and wait for what is on its way."""
    calls = get_breakers()
    if not calls.halt(Halted("the run is being stopped")):
        return
    tell(
        f"stopping: {calls.in_flight} call(s) on their way are waited for, at most {WAIT_S:.0f} s; "
        "stop again to leave them"
    )
    signals.acknowledge()
    arrived = asyncio.ensure_future(calls.wait_idle())
    until = time.monotonic() + WAIT_S
    while (left := until - time.monotonic()) > 0 and not (arrived.done() or task.done()):
        pause = min(left, _TOLD_EVERY_S)
        await asyncio.wait({arrived, task}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
        if not arrived.done() and left > pause:
            tell(f"stopping: {calls.in_flight} call(s) still on their way")
    if arrived.done():
        await asyncio.wait({task}, timeout=_GRACE_S)
        return
    arrived.cancel()
    if not task.done():
        tell(
            f"{calls.in_flight} call(s) have not ended in {WAIT_S:.0f} s and are given up; they "
            "may be billed, and are made again"
        )


def _call_in(loop: asyncio.AbstractEventLoop, act: Callable[[], object]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(act)
