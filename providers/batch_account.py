"""The batches of one account, whatever the vendor: created once, found again, awaited.

A vendor implements `BatchVendor`, one call each. A batch is never created twice: the intent is
recorded first, the batch carries the start of a digest of its input, and the account is searched
for it before a batch is created.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from providers.base import BatchRecords
from providers.batch_lines import BatchLine, BatchPart, LineAnswer
from providers.calling import (
    ATTEMPTS,
    LISTING_LAG_S,
    Caller,
    compute_pause,
    create_once,
    find_status,
)
from providers.errors import AmbiguousSubmission, ProviderError
from providers.training_file import LocalFile
from providers.types import BatchRecord, Completion, Request

MARK = 32
"""So much of a batch's digest is in the vendor's list."""

_SEARCH_PAUSE_S = 8.0
# How often a batch is submitted again if it cannot be found afterwards.
_SUBMISSIONS = 3


@dataclass(frozen=True, slots=True)
class BatchPacing:
    """Seconds between two polls (at first and at most), how many batches to try for requests that
    stay unanswered, and how long a list may not show a new batch."""

    first_s: float = 1.0
    longest_s: float = 60.0
    rounds: int = 3
    lag_s: float = LISTING_LAG_S


@dataclass(frozen=True, slots=True)
class RemoteBatch:
    """A batch at a vendor. `ended`: it will bring no further answers. `refusal`: why it was refused
    as a whole, so that nothing of it was answered or billed. `outputs` are the names of what its
    answers are read from."""

    batch_id: str
    ended: bool
    refusal: ProviderError | None = None
    outputs: tuple[str, ...] = ()


class BatchIndex:
    """An account's batches by the start of their digest."""

    def __init__(self) -> None:
        self._batches: dict[str, RemoteBatch] = {}

    def add(self, digest: str, batch: RemoteBatch) -> None:
        """Add a batch; of several with one digest the first stays."""
        self._batches.setdefault(digest[:MARK], batch)

    def get(self, digest: str) -> RemoteBatch | None:
        """The batch of this digest."""
        return self._batches.get(digest[:MARK])


class BatchVendor(Protocol):
    """What a vendor does for batches. The calls raise errors of `providers.errors`; `create` alone
    raises what the vendor's package raises. `max_requests`, `max_bytes`: the most of one batch."""

    max_requests: int
    max_bytes: int

    async def build_line(self, request: Request) -> BatchLine:
        """The line of one request."""

    async def upload(self, file: LocalFile, digest: str) -> str:
        """The name of the uploaded input; the same file is not uploaded twice."""

    async def create(self, source: str, digest: str, model: str) -> RemoteBatch:
        """One attempt to create a batch that carries the digest, or its start."""

    async def retrieve(self, batch_id: str) -> RemoteBatch:
        """A batch as it is now."""

    async def list_batches(self) -> BatchIndex:
        """Every batch that we created."""

    async def cancel(self, batch_id: str) -> None:
        """Stop a batch; requests answered by then stay answered, and are billed."""

    def read_answers(
        self, output: str, is_wanted: Callable[[str], bool]
    ) -> AsyncIterator[LineAnswer]:
        """The answers in an output whose `custom_id` is wanted."""

    def parse_completion(self, body: object, request: Request) -> Completion:
        """The answer in a body; its `latency_ms` is 0, since lines of a batch have no latency."""

    def classify_refusal(self, status: int, body: object) -> ProviderError:
        """The error that an answer with another status than 200 means."""


class BatchAccount:
    """Creates, finds and awaits the batches of a vendor.

    account = BatchAccount(vendor, caller, records, BatchPacing())
    batch = await account.wait_until_ended(await account.create(part, digest))
    """

    def __init__(
        self, vendor: BatchVendor, caller: Caller, records: BatchRecords, pacing: BatchPacing
    ) -> None:
        self._vendor = vendor
        self._caller = caller
        self._records = records
        self._pacing = pacing

    async def create(self, part: BatchPart, digest: str) -> RemoteBatch:
        """A new batch; the intent is recorded before anything is sent.

        The request is repeated only once it is settled that there is no batch. Raises
        `AmbiguousSubmission` if it stays unknown whether there is one.
        """
        # The ids go in now: a later start reads from them whose answers the batch has.
        record = BatchRecord(digest, part.custom_ids)
        records = await self._records.all()
        # An intent without a batch: a process may have ended between creating and recording it.
        doubtful = any(r.digest == digest and r.batch_id is None for r in records)
        batch = await self._search(digest, self._pacing.lag_s) if doubtful else None
        if batch is None:
            await self._records.save(record)
            batch = await self._create(part, digest)
        await self._records.save(replace(record, batch_id=batch.batch_id))
        return batch

    async def find(self, record: BatchRecord, index: BatchIndex) -> RemoteBatch | None:
        """The recorded batch, if there is one at the vendor."""
        if record.batch_id is None:
            return index.get(record.digest)
        # By its own name, since a vendor may list for a shorter time than it keeps.
        try:
            return await self._vendor.retrieve(record.batch_id)
        except ProviderError as error:
            if find_status(error) != 404:
                raise
            return None

    async def wait_until_ended(self, batch: RemoteBatch) -> RemoteBatch:
        """The batch once it has ended, whatever its outcome."""
        wait = self._pacing.first_s
        while not batch.ended:
            await self._caller.sleep(wait)
            wait = min(self._pacing.longest_s, 1.5 * wait)
            batch = await self._vendor.retrieve(batch.batch_id)
        return batch

    async def _create(self, part: BatchPart, digest: str) -> RemoteBatch:
        with TemporaryDirectory(prefix="society-") as folder:
            path = Path(folder) / f"society-batch-{digest[:MARK]}.jsonl"
            local = await asyncio.to_thread(part.write, path)
            source = await self._vendor.upload(local, digest)

        # The file is there by now, so that only this request can be of unknown outcome.
        async def create() -> RemoteBatch:
            return await self._vendor.create(source, digest, part.model)

        what = f"batch {digest[:MARK]}"
        for _ in range(_SUBMISSIONS):
            try:
                return await create_once(self._caller, what, create, self._pacing.lag_s)
            except AmbiguousSubmission as error:
                unknown = error
            batch = await self._search(digest, unknown.settles_in_s or 0.0)
            if batch is not None:
                return batch
            # Nothing will settle it: sending again could pay twice.
            if unknown.settles_in_s is None:
                break
        raise unknown

    async def _search(self, digest: str, least_s: float) -> RemoteBatch | None:
        """The batch of this digest, if the vendor lists it within `least_s` seconds."""
        waited, searches = 0.0, 0
        while True:
            batch = (await self._vendor.list_batches()).get(digest)
            if batch is not None or (searches >= ATTEMPTS and waited >= least_s):
                return batch
            # At least ATTEMPTS searches, even on a server that claims no lag.
            pause = min(_SEARCH_PAUSE_S, compute_pause(None, searches))
            await self._caller.sleep(pause)
            waited, searches = waited + pause, searches + 1
