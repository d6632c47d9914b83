"""Threads for calls that block. They never keep a process alive: who stops a run does not wait for
a server that has not answered."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
_Task = tuple[Callable[[], Any], asyncio.AbstractEventLoop, "asyncio.Future[Any]"]


class CallThreads:
    """At most `most` threads, started as they are needed; further calls wait.

    threads = CallThreads(64)
    answer = await threads.run(partial(client.converse, modelId="amazon.nova-micro-v1:0"))
    """

    # concurrent.futures has no daemon threads: Python waits at its end until all calls have ended.

    def __init__(self, most: int) -> None:
        self._most = most
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._started = 0

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`, or what it raises. A call that is cancelled ends by itself."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._tasks.put((work, loop, future))
        if not self._idle.acquire(blocking=False) and self._started < self._most:
            self._started += 1
            threading.Thread(target=self._serve, name="provider-call", daemon=True).start()
        return await future

    def close(self) -> None:
        """Let the threads end, each after its call."""
        for _ in range(self._started):
            self._tasks.put(None)

    def _serve(self) -> None:
        while (task := self._tasks.get()) is not None:
            work, loop, future = task
            if not future.cancelled():
                try:
                    deliver = partial(_set_result, future, work())
                except BaseException as error:
                    deliver = partial(_set_error, future, error)
                # The loop may have been closed meanwhile, and then nobody waits.
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(deliver)
            self._idle.release()


def _set_result(future: asyncio.Future[Any], result: object) -> None:
    if not future.done():
        future.set_result(result)


def _set_error(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
