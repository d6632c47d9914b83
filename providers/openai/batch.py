"""OpenAI's batches: what `providers.batches` asks of a vendor.

https://platform.openai.com/docs/guides/batch. A batch is answered within a day at half the price.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from openai import AsyncOpenAI, Omit
from openai.pagination import AsyncCursorPage
from openai.types import Batch

from providers.batch_account import MARK, BatchIndex, RemoteBatch
from providers.batch_lines import BatchLine, LineAnswer
from providers.calling import Caller, find_status
from providers.errors import BadRequest, ProviderError, RateLimited
from providers.openai.batch_format import (
    ENDPOINT,
    MAX_BYTES,
    MAX_REQUESTS,
    BatchChat,
    build_line,
    read_answers,
)
from providers.openai.calling import list_items, require_id
from providers.openai.files import Files
from providers.training_file import LocalFile
from providers.types import Completion, Request

DIGEST_KEY = "digest"
_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
_NAME = "society-batch-"
_PAGE = 100


class OpenAIBatches:
    """Implements `providers.batch_account.BatchVendor` for one account.

    Example: `Batches(OpenAIBatches(client, caller, BatchChat(connection, chat)), caller, records)`.
    """

    def __init__(
        self,
        client: AsyncOpenAI,
        caller: Caller,
        chat: BatchChat,
        *,
        max_requests: int = MAX_REQUESTS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        # A retry inside the package could create a second batch, unseen.
        if client.max_retries:
            raise ValueError("the client retries by itself; make it with max_retries=0")
        self.max_requests = max_requests
        self.max_bytes = max_bytes
        self._client = client
        self._caller = caller
        self._chat = chat
        self._files = Files(client, caller)

    async def build_line(self, request: Request) -> BatchLine:
        return build_line(request, self._chat.build_body(request))

    async def upload(self, file: LocalFile, digest: str) -> str:
        return await self._files.ensure_uploaded(file, f"{_NAME}{digest[:MARK]}.jsonl", "batch")

    async def create(self, source: str, digest: str, model: str) -> RemoteBatch:
        batch = await self._client.batches.create(
            input_file_id=source,
            endpoint=ENDPOINT,
            completion_window="24h",
            metadata={DIGEST_KEY: digest},
        )
        require_id(batch)
        return self._describe(batch)

    async def retrieve(self, batch_id: str) -> RemoteBatch:
        async def retrieve() -> Batch:
            batch = await self._client.batches.retrieve(batch_id)
            require_id(batch)
            return batch

        return self._describe(await self._caller.call_with_retry(retrieve))

    async def list_batches(self) -> BatchIndex:
        """Also on servers that drop metadata: there the name of the input file has the digest."""

        async def fetch_page(after: str | Omit) -> AsyncCursorPage[Batch]:
            return await self._client.batches.list(limit=_PAGE, after=after)

        index = BatchIndex()
        unmarked: list[Batch] = []
        async for batch in list_items(self._caller.call_with_retry, "batches", fetch_page):
            digest = (batch.metadata or {}).get(DIGEST_KEY)
            if digest:
                index.add(digest, self._describe(batch))
            elif not batch.metadata:
                unmarked.append(batch)
        # The list of files is read only if it is needed: it may be long.
        if unmarked:
            names = await self._files.list_names("batch")
            for batch in unmarked:
                name = names.get(batch.input_file_id, "")
                if name.startswith(_NAME):
                    index.add(name.removeprefix(_NAME), self._describe(batch))
        return index

    async def cancel(self, batch_id: str) -> None:
        try:
            await self._caller.call_with_retry(lambda: self._client.batches.cancel(batch_id))
        except ProviderError as error:
            # 400: it has ended already; 404: the server has forgotten it.
            if find_status(error) not in (400, 404):
                raise

    async def read_answers(
        self, output: str, is_wanted: Callable[[str], bool]
    ) -> AsyncIterator[LineAnswer]:
        with TemporaryDirectory(prefix="society-") as folder:
            path = Path(folder) / "answers.jsonl"
            await self._download(output, path)
            for answer in read_answers(path, is_wanted):
                yield answer

    def parse_completion(self, body: object, request: Request) -> Completion:
        return self._chat.parse_completion(body, request)

    def classify_refusal(self, status: int, body: object) -> ProviderError:
        return self._chat.classify_refusal(status, body)

    async def _download(self, file_id: str, path: Path) -> None:
        """Write the content of a file to `path`."""

        async def download() -> None:
            # Streamed to disk, since an output file may have hundreds of megabytes.
            content = self._client.files.with_streaming_response.content(file_id)
            async with content as response:
                await response.stream_to_file(path)

        await self._caller.call_with_retry(download)

    def _describe(self, batch: Batch) -> RemoteBatch:
        files = (batch.output_file_id, batch.error_file_id)
        return RemoteBatch(
            batch.id,
            batch.status in _ENDED,
            self._explain_refusal(batch) if batch.status == "failed" else None,
            tuple(file_id for file_id in files if file_id),
        )

    def _explain_refusal(self, batch: Batch) -> ProviderError:
        errors = (batch.errors.data if batch.errors else None) or []
        reasons = "; ".join(
            f"{error.message or error.code}" + (f" (line {error.line})" if error.line else "")
            for error in errors[:3]
        )
        text = self._caller.scrub(f"batch {batch.id} was refused: {reasons or 'no reason given'}")
        if any("limit" in str(error.code) for error in errors):
            return RateLimited(f"{text}; wait until earlier batches have ended, then run again")
        return BadRequest(text)
