"""The batches of one account: created once, found again, awaited, read."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from openai import AsyncOpenAI, Omit
from openai.pagination import AsyncCursorPage
from openai.types import Batch

from providers.base import BatchRecords
from providers.errors import AmbiguousSubmission, BadRequest, ProviderError, RateLimited
from providers.openai.batch_format import ENDPOINT, BatchPart
from providers.openai.calling import (
    ATTEMPTS,
    SUBMISSIONS,
    Caller,
    compute_pause,
    create_once,
    find_status,
    list_items,
    require_id,
)
from providers.openai.files import Files
from providers.types import BatchRecord

DIGEST_KEY = "digest"
_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
_NAME, _MARK = "society-batch-", 32
_PAGE = 100
_SEARCH_PAUSE_S = 8.0


class BatchIndex:
    """The account's batches by the start of their digest, which is all that a file name has."""

    def __init__(self) -> None:
        self._batches: dict[str, Batch] = {}

    def add(self, digest: str, batch: Batch) -> None:
        """Add a batch; of several with one digest the first stays."""
        self._batches.setdefault(digest[:_MARK], batch)

    def get(self, digest: str) -> Batch | None:
        """The batch of this digest."""
        return self._batches.get(digest[:_MARK])


class AccountBatches:
    """The calls about batches that `Batches` makes.

    Example::

        account = AccountBatches(client, caller, first_s=1.0, longest_s=60.0, lag_s=20.0)
        batch = await account.wait_until_ended(await account.create(part, digest, records))
    """

    def __init__(
        self, client: AsyncOpenAI, caller: Caller, first_s: float, longest_s: float, lag_s: float
    ) -> None:
        # A retry inside the package could create a second batch, unseen.
        if client.max_retries:
            raise ValueError("the client retries by itself; make it with max_retries=0")
        self._client = client
        self._caller = caller
        self._first_s = first_s
        self._longest_s = longest_s
        self._lag_s = lag_s
        self._files = Files(client, caller)

    async def create(self, part: BatchPart, digest: str, records: BatchRecords) -> Batch:
        """A new batch; the intent is recorded before anything is sent.

        The request is repeated only once it is settled that there is no batch. Raises
        `AmbiguousSubmission` if it stays unknown whether there is one.
        """
        record = BatchRecord(digest, part.custom_ids)
        # An intent without a batch: a process may have ended between creating and recording it.
        doubtful = any(r.digest == digest and r.batch_id is None for r in await records.all())
        batch = await self._search(digest, self._lag_s) if doubtful else None
        if batch is None:
            await records.save(record)
            batch = await self._create(digest, await self._upload_input(part, digest))
        await records.save(replace(record, batch_id=batch.id))
        return batch

    async def _upload_input(self, part: BatchPart, digest: str) -> str:
        """The id of the uploaded input file."""
        name = f"{_NAME}{digest[:_MARK]}.jsonl"
        with TemporaryDirectory(prefix="society-") as folder:
            local = await asyncio.to_thread(part.write, Path(folder) / name)
            return await self._files.ensure_uploaded(local, name, "batch")

    async def _create(self, digest: str, file_id: str) -> Batch:
        async def create() -> Batch:
            return await self._client.batches.create(
                input_file_id=file_id,
                endpoint=ENDPOINT,
                completion_window="24h",
                metadata={DIGEST_KEY: digest},
            )

        what = f"batch {digest[:_MARK]}"
        for _ in range(SUBMISSIONS):
            try:
                return await create_once(self._caller, what, create, self._lag_s)
            except AmbiguousSubmission as error:
                unknown = error
            batch = await self._search(digest, unknown.settles_in_s or 0.0)
            if batch is not None:
                return batch
            # Nothing will settle it: sending again could pay twice.
            if unknown.settles_in_s is None:
                break
        raise unknown

    async def _search(self, digest: str, least_s: float) -> Batch | None:
        """The batch of this digest, if the server lists it within `least_s` seconds."""
        waited, searches = 0.0, 0
        while True:
            batch = (await self.list_batches()).get(digest)
            if batch is not None or (searches >= ATTEMPTS and waited >= least_s):
                return batch
            # At least ATTEMPTS searches, even on a server that claims no lag.
            pause = min(_SEARCH_PAUSE_S, compute_pause(None, searches))
            await self._caller.sleep(pause)
            waited, searches = waited + pause, searches + 1

    async def wait_until_ended(self, batch: Batch) -> Batch:
        """The batch once it has ended, whatever its outcome."""
        batch_id, wait = batch.id, self._first_s
        while not has_ended(batch):
            await self._caller.sleep(wait)
            wait = min(self._longest_s, 1.5 * wait)
            batch = await self._retrieve(batch_id)
        return batch

    async def find(self, record: BatchRecord, index: BatchIndex) -> Batch | None:
        """The recorded batch, if there is one at the server."""
        if record.batch_id is None:
            return index.get(record.digest)
        try:
            return await self._retrieve(record.batch_id)
        except ProviderError as error:
            if find_status(error) != 404:
                raise
            return None

    async def list_batches(self) -> BatchIndex:
        """Every batch that we created, also on servers that drop metadata: there the name of the
        input file has the digest."""

        async def fetch_page(after: str | Omit) -> AsyncCursorPage[Batch]:
            return await self._client.batches.list(limit=_PAGE, after=after)

        index = BatchIndex()
        unmarked: list[Batch] = []
        async for batch in list_items(self._caller.call_with_retry, "batches", fetch_page):
            digest = (batch.metadata or {}).get(DIGEST_KEY)
            if digest:
                index.add(digest, batch)
            elif not batch.metadata:
                unmarked.append(batch)
        # The list of files is read only if it is needed: it may be long.
        if unmarked:
            names = await self._files.list_names("batch")
            for batch in unmarked:
                name = names.get(batch.input_file_id, "")
                if name.startswith(_NAME):
                    index.add(name.removeprefix(_NAME), batch)
        return index

    async def _retrieve(self, batch_id: str) -> Batch:
        async def retrieve() -> Batch:
            batch = await self._client.batches.retrieve(batch_id)
            require_id(batch)
            return batch

        return await self._caller.call_with_retry(retrieve)

    async def cancel(self, batch: Batch) -> None:
        """Stop a batch; requests answered by then stay answered, and are billed."""
        try:
            await self._caller.call_with_retry(lambda: self._client.batches.cancel(batch.id))
        except ProviderError as error:
            # 400: it has ended already; 404: the server has forgotten it.
            if find_status(error) not in (400, 404):
                raise

    async def download(self, file_id: str, path: Path) -> None:
        """Write the content of a file to `path`."""

        async def download() -> None:
            # Streamed to disk, since an output file may have hundreds of megabytes.
            content = self._client.files.with_streaming_response.content(file_id)
            async with content as response:
                await response.stream_to_file(path)

        await self._caller.call_with_retry(download)

    def explain_refusal(self, batch: Batch) -> ProviderError:
        """Why a batch was refused as a whole; nothing of it was answered or billed."""
        errors = (batch.errors.data if batch.errors else None) or []
        reasons = "; ".join(
            f"{error.message or error.code}" + (f" (line {error.line})" if error.line else "")
            for error in errors[:3]
        )
        text = self._caller.scrub(f"batch {batch.id} was refused: {reasons or 'no reason given'}")
        if any("limit" in str(error.code) for error in errors):
            return RateLimited(f"{text}; wait until earlier batches have ended, then run again")
        return BadRequest(text)


def has_ended(batch: Batch) -> bool:
    """Whether a batch will bring no further answers."""
    return batch.status in _ENDED
