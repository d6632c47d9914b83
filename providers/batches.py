"""Batches: many requests sent as one file, answered later, at about half the price.

The same for every vendor: what is sent is split, what comes back is joined by the lines' ids, and
answers that were paid for in an earlier start are used first. `providers.batch_account` creates and
finds the batches, and a vendor's `BatchVendor` makes the calls.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from providers.base import BatchRecords
from providers.batch_account import BatchAccount, BatchPacing, BatchVendor, RemoteBatch
from providers.batch_lines import BatchLine, BatchPart, LineAnswer, split_lines
from providers.calling import Caller
from providers.errors import (
    Overloaded,
    ProviderError,
    RequestFailed,
    RetryableError,
    RunError,
)
from providers.gathering import gather_or_cancel
from providers.types import Completion, Request

BatchOutcome = Completion | ProviderError

_SILENCE = "the batch's files say nothing about it"
_FEW = 3
"""So few failing requests are no outage, even if there were no others."""


@dataclass
class _Work:
    """The requests of one call, and what is known about them.

    `used` has the ids of the batches whose answers were read. `reasons` has, for the last failure
    of each request, its text and whether the server answered the request itself.
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
    """Implements `providers.base.BatchClient` over the calls of a vendor.

    Example::

        batches = Batches(OpenAIBatches(client, caller, chat), caller, records)
        outcomes = await batches.complete_batch(requests)
    """

    def __init__(
        self,
        vendor: BatchVendor,
        caller: Caller,
        records: BatchRecords,
        pacing: BatchPacing | None = None,
    ) -> None:
        self._vendor = vendor
        self._caller = caller
        self._records = records
        self._pacing = pacing or BatchPacing()
        self._account = BatchAccount(vendor, caller, records, self._pacing)

    async def complete_batch(self, requests: Sequence[Request]) -> dict[str, BatchOutcome]:
        """An outcome for every request, by `Request.key`.

        A request that can never succeed has its error as outcome. Requests that expired or met a
        passing error go into another batch; one that fails in every batch while most are answered
        gets a `RequestFailed` with the last reason. Answers of batches that an earlier, interrupted
        call created are used first. Cancelling the call leaves the batches running.

        Raises `AmbiguousSubmission` if it is unknown whether a batch exists (the next call looks
        for it), `BadRequest` or `RateLimited` for a batch that was refused as a whole, and
        `RunError`s.
        """
        lines = [await self._vendor.build_line(request) for request in requests]
        if len({request.key for request in requests}) != len(requests):
            raise ValueError("two requests of a batch have the same key; each needs its own")
        work = _Work({line.custom_id: line for line in lines})
        await self._adopt(work)
        rounds = 0
        while work.open and rounds < self._pacing.rounds:
            parts = split_lines(work.open, self._vendor.max_requests, self._vendor.max_bytes)
            # Only rounds that create a batch count: reading old batches is free.
            rounds += any(await gather_or_cancel([self._answer(part, work) for part in parts]))
            if work.stop is not None:
                raise work.stop
        self._give_up(work)
        return {line.request.key: work.answers[line.custom_id] for line in lines}

    async def cancel(self) -> int:
        """Cancel every recorded batch that has not ended; returns how many."""
        cancelled, index = 0, await self._vendor.list_batches()
        for record in await self._records.all():
            batch = await self._account.find(record, index)
            if batch is not None and not batch.ended:
                await self._vendor.cancel(batch.batch_id)
                cancelled += 1
        return cancelled

    def _give_up(self, work: _Work) -> None:
        """Set an error for every request that is still unanswered."""
        lost = work.open
        # If most requests fail, the server is at fault: the run stops and can be resumed. Few that
        # fail among many answers are lost for good.
        outage = len(lost) > max(_FEW, len(work.lines) // 2)
        for line in lost:
            reason, answered = work.reasons.get(line.custom_id, (_SILENCE, False))
            text = (
                f"request {line.request.key} was not answered in {self._pacing.rounds} batches; "
                f"the last time: {reason}"
            )
            alone = answered and not outage
            work.answers[line.custom_id] = RequestFailed(text) if alone else Overloaded(text)

    async def _adopt(self, work: _Work) -> None:
        """Use the answers of recorded batches, waiting for those that are under way."""
        records = [
            record
            for record in await self._records.all()
            if not work.lines.keys().isdisjoint(record.custom_ids)
        ]
        if not records:
            return
        index = await self._vendor.list_batches()
        found = [await self._account.find(record, index) for record in records]
        old = [batch for batch in found if batch is not None]
        await gather_or_cancel([self._collect(batch, work, fresh=not batch.ended) for batch in old])

    async def _answer(self, part: BatchPart, work: _Work) -> bool:
        """Have a part answered by an existing batch, or (True) by a new one."""
        # Also batches that no record names: the database of an earlier start may be gone.
        index = await self._vendor.list_batches()
        for attempt in itertools.count(1):
            digest = part.digest(attempt)
            batch = index.get(digest)
            # The answers of this batch were read, and left these requests open: a new attempt.
            if batch is not None and batch.batch_id in work.used:
                continue
            if batch is not None:
                await self._collect(batch, work, fresh=not batch.ended)
                return False
            await self._collect(await self._account.create(part, digest), work, fresh=True)
            return True
        raise AssertionError

    async def _collect(self, batch: RemoteBatch, work: _Work, *, fresh: bool) -> None:
        """Wait for a batch and read its answers. `fresh`: it has not ended before this call."""
        work.used.add(batch.batch_id)
        batch = await self._account.wait_until_ended(batch)
        # A batch that had failed before this call was refused then; its requests go into a new one.
        if batch.refusal is not None and fresh:
            raise batch.refusal
        # An expired batch has both: what was answered, and what was not.
        for output in batch.outputs:
            async for answer in self._vendor.read_answers(output, work.lines.__contains__):
                self._take_answer(answer, work, fresh=fresh)

    def _take_answer(self, answer: LineAnswer, work: _Work, *, fresh: bool) -> None:
        line = work.lines[answer.custom_id]
        # Batches overlap after an interruption: the first good answer stays.
        if isinstance(work.answers.get(line.custom_id), Completion):
            return
        if answer.passing:
            work.reasons[line.custom_id] = self._explain_failure(answer), bool(answer.status)
            return
        try:
            if answer.status != 200:
                raise self._vendor.classify_refusal(answer.status, answer.body)
            completion = self._vendor.parse_completion(answer.body, line.request)
            work.answers[line.custom_id] = completion
        except RunError as error:
            # An old batch has the reason for an earlier stop, which the user may have removed.
            work.stop = error if fresh else work.stop
        except RetryableError as error:
            work.reasons[line.custom_id] = str(error), True
        except ProviderError as error:
            work.answers[line.custom_id] = error

    def _explain_failure(self, answer: LineAnswer) -> str:
        """Why a request was not answered, in the server's words."""
        if answer.status:
            return str(self._vendor.classify_refusal(answer.status, answer.body))
        reason = self._caller.scrub(answer.reason)
        return f"not answered in time ({reason})" if reason else "not answered in time"
