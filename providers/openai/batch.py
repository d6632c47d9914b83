"""Single-shot work at half the price: many requests sent as one file, answered within a day.

https://platform.openai.com/docs/guides/batch. A batch is never created twice: what is intended is
recorded first, the batch bears a digest of its input, and it is looked for before it is created.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol, TypeVar

from openai import AsyncOpenAI
from openai.types import Batch

from providers.batching import BatchRecords
from providers.errors import (
    Overloaded,
    ProviderError,
    RequestFailed,
    RetryableError,
    RunError,
)
from providers.openai.batch_account import AccountBatches, has_ended
from providers.openai.batch_format import (
    MAX_BYTES,
    MAX_REQUESTS,
    BatchLine,
    BatchPart,
    LineAnswer,
    build_line,
    read_answers,
    split_lines,
)
from providers.openai.calling import Caller
from providers.openai.settings import LISTING_LAG_S
from providers.types import Completion, Request

T = TypeVar("T")
BatchOutcome = Completion | ProviderError

_SILENCE = "the batch's files say nothing about it"
_FEW = 3
"""So many failing requests are no outage, also where there are no others."""


class ChatShape(Protocol):
    """How a request is put for this server, and how its answer is read."""

    def body(self, request: Request) -> Mapping[str, object]:
        """The parameters of the chat completion."""

    def completion(self, body: object, request: Request) -> Completion:
        """The answer; raises `providers.errors` for what is none."""

    def refusal(self, status: int, body: object) -> ProviderError:
        """What an error answer means."""


@dataclass(frozen=True, slots=True)
class BatchPacing:
    """How often to ask, in seconds; how many batches to try for what stays unanswered; limits; how
    long a list may not show a new batch."""

    first_s: float = 1.0
    longest_s: float = 60.0
    rounds: int = 3
    max_requests: int = MAX_REQUESTS
    max_bytes: int = MAX_BYTES
    lag_s: float = LISTING_LAG_S


@dataclass
class _Work:
    """The requests of one call, and what is known about them.

    `reasons` are those of the last failures, and whether the server answered the request itself.
    """

    lines: dict[str, BatchLine]
    answers: dict[str, BatchOutcome] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    reasons: dict[str, tuple[str, bool]] = field(default_factory=dict)
    stop: RunError | None = None

    @property
    def open(self) -> list[BatchLine]:
        return [line for custom_id, line in self.lines.items() if custom_id not in self.answers]


class Batches:
    """The batches of one account."""

    def __init__(
        self,
        client: AsyncOpenAI,
        caller: Caller,
        shape: ChatShape,
        records: BatchRecords,
        pacing: BatchPacing | None = None,
    ) -> None:
        self._scrubbed = caller.scrubbed
        self._shape = shape
        self._records = records
        self._pacing = pacing or BatchPacing()
        self._account = AccountBatches(
            client, caller, self._pacing.first_s, self._pacing.longest_s, self._pacing.lag_s
        )

    async def complete_batch(self, requests: Sequence[Request]) -> dict[str, BatchOutcome]:
        """Answer all `requests`; the result is by `Request.key`, and has every one of them.

        Where a request can never succeed its error stands in place of the completion. Those that
        expired or met a passing error go into a further batch; one that fails in every batch, while
        most are answered, has a `RequestFailed` with the last reason. Answers of batches that an
        earlier, interrupted call has made are used first. Being cancelled leaves the batches
        running.

        Raises `AmbiguousSubmission` where nobody knows whether a batch exists (calling again looks
        for it), `BadRequest` or `RateLimited` for a batch that was refused as a whole, and
        `RunError`s.
        """
        lines = [build_line(request, self._shape.body(request)) for request in requests]
        if len({request.key for request in requests}) != len(requests):
            raise ValueError("two requests of a batch have the same key; each needs its own")
        work = _Work({line.custom_id: line for line in lines})
        await self._adopt(work)
        rounds = 0
        while work.open and rounds < self._pacing.rounds:
            parts = split_lines(work.open, self._pacing.max_requests, self._pacing.max_bytes)
            rounds += any(await _gather_or_cancel([self._answer(part, work) for part in parts]))
            if work.stop is not None:
                raise work.stop
        self._give_up(work)
        return {line.request.key: work.answers[line.custom_id] for line in lines}

    def _give_up(self, work: _Work) -> None:
        """Say of every request that is still open why it has no answer."""
        lost = work.open
        outage = len(lost) > max(_FEW, len(work.lines) // 2)
        for line in lost:
            reason, answered = work.reasons.get(line.custom_id, (_SILENCE, False))
            text = (
                f"request {line.request.key} was not answered in {self._pacing.rounds} batches; "
                f"the last time: {reason}"
            )
            alone = answered and not outage
            work.answers[line.custom_id] = RequestFailed(text) if alone else Overloaded(text)

    async def cancel(self) -> int:
        """Cancel every recorded batch that has not ended; returns how many."""
        cancelled, index = 0, await self._account.index()
        for record in await self._records.all():
            batch = await self._account.find(record, index)
            if batch is not None and not has_ended(batch):
                await self._account.cancel(batch)
                cancelled += 1
        return cancelled

    async def _adopt(self, work: _Work) -> None:
        """Use the answers of recorded batches, waiting for those that are under way."""
        records = [
            record
            for record in await self._records.all()
            if not work.lines.keys().isdisjoint(record.custom_ids)
        ]
        if not records:
            return
        index = await self._account.index()
        found = [await self._account.find(record, index) for record in records]
        await _gather_or_cancel(
            [self._collect(batch, work) for batch in found if batch is not None]
        )

    async def _answer(self, part: BatchPart, work: _Work) -> bool:
        """Have a batch answered: one that is there already, or (True) a new one."""
        index = await self._account.index()
        for attempt in itertools.count(1):
            digest = part.digest(attempt)
            batch = index.get(digest)
            if batch is not None and batch.id in work.used:
                continue
            if batch is not None:
                await self._collect(batch, work)
                return False
            await self._collect(await self._account.create(part, digest, self._records), work)
            return True
        raise AssertionError

    async def _collect(self, batch: Batch, work: _Work) -> None:
        """Wait for a batch and take what it answered."""
        work.used.add(batch.id)
        was_over = has_ended(batch)
        batch = await self._account.ended(batch)
        if batch.status == "failed" and not was_over:
            raise self._account.refused(batch)
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id:
                await self._read(file_id, work, fresh=not was_over)

    async def _read(self, file_id: str, work: _Work, *, fresh: bool) -> None:
        with TemporaryDirectory(prefix="society-") as folder:
            path = Path(folder) / "answers.jsonl"
            await self._account.download(file_id, path)
            for answered in read_answers(path, lambda custom_id: custom_id in work.lines):
                self._take(answered, work, fresh=fresh)

    def _take(self, answered: LineAnswer, work: _Work, *, fresh: bool) -> None:
        line = work.lines[answered.custom_id]
        if isinstance(work.answers.get(line.custom_id), Completion):
            return
        if answered.passing:
            work.reasons[line.custom_id] = self._reason(answered), bool(answered.status)
            return
        try:
            if answered.status != 200:
                raise self._shape.refusal(answered.status, answered.body)
            work.answers[line.custom_id] = self._shape.completion(answered.body, line.request)
        except RunError as error:
            # In an old batch it is the reason of an old stop, which may be gone.
            work.stop = error if fresh else work.stop
        except RetryableError as error:
            work.reasons[line.custom_id] = str(error), True
        except ProviderError as error:
            work.answers[line.custom_id] = error

    def _reason(self, answered: LineAnswer) -> str:
        """Why a request was not answered, in the server's words."""
        if answered.status:
            return str(self._shape.refusal(answered.status, answered.body))
        told = self._scrubbed(answered.said)
        return f"not answered in time ({told})" if told else "not answered in time"


async def _gather_or_cancel(works: Sequence[Coroutine[None, None, T]]) -> list[T]:
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
