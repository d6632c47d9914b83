"""Completions through batches: later, and for less.

Requests that are made at about the same time go out in one batch. A caller that asks one question
at a time, as the debate does, need not know about batches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from providers.base import BatchClient, Provider
from providers.types import Completion, Request
from providers.wrapper import ProviderWrapper

QUIET_S = 2.0
"""Seconds without a new request after which the collected requests are sent."""


class BatchedProvider(ProviderWrapper):
    """`provider`, with its completions collected into `batches`.

    Example: `BatchedProvider(provider, provider.batches(records))`.
    """

    def __init__(self, provider: Provider, batches: BatchClient, quiet_s: float = QUIET_S) -> None:
        super().__init__(provider)
        self._batches = batches
        self._quiet_s = quiet_s
        self._waiting: list[tuple[Request, asyncio.Future[Completion]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._sending: set[asyncio.Task[None]] = set()

    async def complete(self, request: Request) -> Completion:
        """The answer, once the batch with this request has ended."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Completion] = loop.create_future()
        self._waiting.append((request, answer))
        # Every new request restarts the quiet time: a debate's round arrives in a burst.
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(self._quiet_s, self._flush)
        return await answer

    def with_deadline(self, give_up_after_s: float) -> BatchedProvider:
        """A wrapper with a queue of its own; its batches take as long as batches take."""
        return BatchedProvider(
            self._provider.with_deadline(give_up_after_s), self._batches, self._quiet_s
        )

    async def close(self) -> None:
        """Stop waiting. Batches that were sent continue, and a later run finds them."""
        if self._timer is not None:
            self._timer.cancel()
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)
        await self._provider.close()

    def _flush(self) -> None:
        collected = [(request, answer) for request, answer in self._waiting if not answer.done()]
        self._waiting, self._timer = [], None
        if collected:
            # The set keeps the task alive; an event loop holds tasks by weak references only.
            task = asyncio.get_running_loop().create_task(self._send(collected))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _send(self, collected: Sequence[tuple[Request, asyncio.Future[Completion]]]) -> None:
        try:
            answers = await self._batches.complete_batch([request for request, _ in collected])
        except asyncio.CancelledError:
            # `close` was called: no caller may wait for an answer that is not fetched any more.
            for _, answer in collected:
                answer.cancel()
            raise
        except Exception as error:
            # One error for the whole batch: every caller gets it, as if its own call had failed.
            for _, answer in collected:
                if not answer.done():
                    answer.set_exception(error)
            return
        for request, answer in collected:
            # Its caller was cancelled meanwhile.
            if answer.done():
                continue
            found = answers[request.key]
            if isinstance(found, Completion):
                answer.set_result(found)
            else:
                answer.set_exception(found)
