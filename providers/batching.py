"""Answers in batches: later, and for less.

`Gathered` stands in for a provider that has batches: what is asked at about the same time goes out
together, so whoever asks one question at a time, as the debate does, needs to know nothing of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from providers.base import Provider, comparing
from providers.errors import ProviderError
from providers.types import (
    Capabilities,
    Completion,
    Divergence,
    FinetuneSpec,
    JobHandle,
    JobState,
    Message,
    ModelRef,
    Request,
    Score,
)

QUIET_S = 2.0
"""Seconds without a new request after which what has gathered is sent."""


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """One batch that is intended (`batch_id` None) or exists, and which requests are in it."""

    digest: str
    custom_ids: tuple[str, ...]
    batch_id: str | None = None


class BatchRecords(Protocol):
    """Where batches are remembered, so that a later run finds answers that are paid for."""

    async def all(self) -> Sequence[BatchRecord]:
        """Every record, oldest first."""

    async def save(self, record: BatchRecord) -> None:
        """Keep a record, in place of the earlier one of the same digest; returns when safe."""


class BatchClient(Protocol):
    """The batches of one account."""

    async def complete_batch(
        self, requests: Sequence[Request]
    ) -> Mapping[str, Completion | ProviderError]:
        """An answer, or why there never can be one, for every request, by its key."""

    async def cancel(self) -> int:
        """Cancel every recorded batch that has not ended; returns how many."""


@runtime_checkable
class Batching(Protocol):
    """A provider that has batches."""

    def batches(self, records: BatchRecords) -> BatchClient:
        """Its batches, remembered in `records`."""


class Gathered:
    """`provider`, with its completions gathered into `batches`."""

    def __init__(self, provider: Provider, batches: BatchClient, quiet_s: float = QUIET_S) -> None:
        self._provider = provider
        self._batches = batches
        self._quiet_s = quiet_s
        self._waiting: list[tuple[Request, asyncio.Future[Completion]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._sending: set[asyncio.Task[None]] = set()

    @property
    def base(self) -> ModelRef:
        return self._provider.base

    @property
    def capabilities(self) -> Capabilities:
        return self._provider.capabilities

    async def complete(self, request: Request) -> Completion:
        """The answer, once the batch has ended that the request goes out with."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Completion] = loop.create_future()
        self._waiting.append((request, answer))
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(self._quiet_s, self._flush)
        return await answer

    async def score(self, model: ModelRef, messages: Sequence[Message], text: str) -> Score:
        return await self._provider.score(model, messages, text)

    async def divergences(
        self, p: ModelRef, others: Sequence[ModelRef], messages: Sequence[Message], text: str
    ) -> Sequence[Divergence]:
        return await comparing(self._provider).divergences(p, others, messages, text)

    async def submit(self, spec: FinetuneSpec) -> JobHandle:
        return await self._provider.submit(spec)

    async def find(self, spec: FinetuneSpec) -> JobHandle | None:
        return await self._provider.find(spec)

    async def poll(self, handle: JobHandle) -> JobState:
        return await self._provider.poll(handle)

    async def cancel(self, handle: JobHandle) -> None:
        await self._provider.cancel(handle)

    async def load_adapters(self, models: Sequence[ModelRef]) -> None:
        await self._provider.load_adapters(models)

    async def close(self) -> None:
        """Stop waiting; batches that were sent go on and are found again."""
        if self._timer is not None:
            self._timer.cancel()
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)
        await self._provider.close()

    def _flush(self) -> None:
        asked = [(request, answer) for request, answer in self._waiting if not answer.done()]
        self._waiting, self._timer = [], None
        if asked:
            task = asyncio.get_running_loop().create_task(self._send(asked))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _send(self, asked: Sequence[tuple[Request, asyncio.Future[Completion]]]) -> None:
        try:
            answers = await self._batches.complete_batch([request for request, _ in asked])
        except asyncio.CancelledError:
            for _, answer in asked:
                answer.cancel()
            raise
        except Exception as error:
            for _, answer in asked:
                if not answer.done():
                    answer.set_exception(error)
            return
        for request, answer in asked:
            if answer.done():
                continue
            found = answers[request.key]
            if isinstance(found, Completion):
                answer.set_result(found)
            else:
                answer.set_exception(found)
