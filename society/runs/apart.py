"""Work that needs an event loop of its own, for callers who may be inside one, as in a notebook."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Stop:
    """Stops work in another thread's event loop; what is in flight is stored before it ends."""

    def __init__(self) -> None:
        self._cancel: Callable[[], object] = lambda: None

    async def guard(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`, which `now` can cancel meanwhile from any thread."""
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()
        self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        return await task

    def now(self) -> None:
        """Cancel the work."""
        self._cancel()


def call_apart(function: Callable[[Stop], T]) -> T:
    """Call `function`, which runs event loops; in a thread of its own if one is running here.

    call_apart(lambda stop: asyncio.run(stop.guard(work())))
    """
    stop = Stop()
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return function(stop)
    # A notebook's loop runs in this thread and cannot be entered twice.
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(function, stop)
        try:
            return future.result()
        except KeyboardInterrupt:
            # "Interrupt kernel" arrives in this thread only, and the work has to stop by itself.
            stop.now()
            raise
