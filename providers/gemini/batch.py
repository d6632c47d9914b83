"""Batch prediction of Gemini on Vertex AI: what `providers.batches` asks of a vendor.

https://docs.cloud.google.com/gemini-enterprise-agent-platform/models/capabilities/batch-prediction-from-cloud-storage
(read 2026-11-30). Requests are lines of an object in the bucket, answers lines of other objects
there; see `providers.gemini.batch_format`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from google.genai import types
from google.genai.batches import AsyncBatches

from providers.batch_account import MARK, BatchIndex, RemoteBatch
from providers.batch_lines import BatchLine, LineAnswer
from providers.batches import Batches, BatchOutcome
from providers.calling import Caller, UnreadableAnswer, find_status
from providers.errors import BadRequest, ProviderError, RateLimited
from providers.gemini.batch_format import build_line, parse_answers, parse_completion
from providers.gemini.client import GeminiConnection, GoogleBucket
from providers.gemini.errors import classify_body
from providers.gemini.jobs import TuningJobs
from providers.gemini.settings import find_location
from providers.training_file import LocalFile
from providers.types import Completion, Request

_MAX_REQUESTS = 200_000
_MAX_BYTES = 10**9
_NAME = "society-batch-"
_PAGE = 100
_ENDED = frozenset(
    {
        *("JOB_STATE_SUCCEEDED", "JOB_STATE_PARTIALLY_SUCCEEDED", "JOB_STATE_FAILED"),
        *("JOB_STATE_CANCELLED", "JOB_STATE_EXPIRED"),
    }
)


class GeminiBatches:
    """Implements `providers.batch_account.BatchVendor` for one project and one base model.

    Example: `Batches(GeminiBatches(connection, jobs), connection.make_caller(), records)`.
    """

    max_requests = _MAX_REQUESTS
    max_bytes = _MAX_BYTES

    def __init__(self, connection: GeminiConnection, jobs: TuningJobs) -> None:
        self._connection = connection
        self._jobs = jobs
        self._caller: Caller = connection.make_caller()
        self._bucket: GoogleBucket = jobs.get_bucket()
        # Each location lists its own jobs only.
        self._places = sorted({connection.settings.answers_at, connection.settings.jobs_at})

    async def build_line(self, request: Request) -> BatchLine:
        endpoint = request.model.artifact
        # A batch names the model behind an endpoint, not the endpoint.
        model = self._connection.model
        if endpoint is not None:
            model = await self._jobs.find_model(endpoint)
        return build_line(request, model, self._connection.settings)

    async def upload(self, file: LocalFile, digest: str) -> str:
        name = f"society/batches/{digest[:MARK]}.jsonl"
        if await self._caller.call_with_retry(lambda: self._bucket.find_size(name)) != file.bytes:
            await self._caller.call_with_retry(lambda: self._bucket.upload(name, file.path))
        return self._bucket.locate(name)

    async def create(self, source: str, digest: str, model: str) -> RemoteBatch:
        config = types.CreateBatchJobConfig(
            # Batch jobs have no labels in this package; their name is what is listed.
            display_name=f"{_NAME}{digest[:MARK]}",
            dest=source.removesuffix(".jsonl"),
        )
        job = await self._get_batches(find_location(model, self._connection.settings)).create(
            model=model, src=source, config=config
        )
        return self._describe(job)

    async def retrieve(self, batch_id: str) -> RemoteBatch:
        batches = self._get_batches(find_location(batch_id, self._connection.settings))
        return self._describe(
            await self._caller.call_with_retry(lambda: batches.get(name=batch_id))
        )

    async def list_batches(self) -> BatchIndex:
        """Of both locations: tuned models answer where they were made, the base elsewhere."""
        index = BatchIndex()
        for place in self._places:
            for job in await self._list(place):
                name = job.display_name or ""
                if name.startswith(_NAME):
                    index.add(name.removeprefix(_NAME), self._describe(job))
        return index

    async def cancel(self, batch_id: str) -> None:
        batches = self._get_batches(find_location(batch_id, self._connection.settings))
        try:
            await self._caller.call_with_retry(lambda: batches.cancel(name=batch_id))
        except ProviderError as error:
            # 400: it has ended already; 404: it has been deleted.
            if find_status(error) not in (400, 404):
                raise

    async def read_answers(
        self, output: str, is_wanted: Callable[[str], bool]
    ) -> AsyncIterator[LineAnswer]:
        bucket, folder_name = self._bucket, self._bucket.find_name(output)
        names = await self._caller.call_with_retry(lambda: bucket.list_names(f"{folder_name}/"))
        # The folder has other files, too, and the answers may be in several.
        for name in (name for name in names if name.endswith(".jsonl")):
            with TemporaryDirectory(prefix="society-") as folder:
                path = Path(folder) / "answers.jsonl"
                await self._caller.call_with_retry(partial(bucket.download, name, path))
                for answer in parse_answers(path):
                    if is_wanted(answer.custom_id):
                        yield answer

    def parse_completion(self, body: object, request: Request) -> Completion:
        return parse_completion(body, request, self._connection.secrets)

    def classify_refusal(self, status: int, body: object) -> ProviderError:
        return classify_body(status, body, self._connection.secrets, self._connection.place)

    def _get_batches(self, location: str) -> AsyncBatches:
        return self._connection.get_client(location).batches

    async def _list(self, location: str) -> list[types.BatchJob]:
        batches = self._get_batches(location)

        async def fetch() -> list[types.BatchJob]:
            config = types.ListBatchJobsConfig(page_size=_PAGE)
            return [job async for job in await batches.list(config=config)]

        return await self._caller.call_with_retry(fetch)

    def _describe(self, job: types.BatchJob) -> RemoteBatch:
        if not job.name:
            raise UnreadableAnswer("Google answered with a batch that has no name")
        state = str(getattr(job.state, "value", None) or job.state or "")
        made = job.output_info.gcs_output_directory if job.output_info else None
        # The folder that was asked for contains the one that Google makes.
        folder = (made or (job.dest.gcs_uri if job.dest else None) or "").rstrip("/")
        # A job that stopped in the middle has answers, which are billed and therefore read.
        answered = (job.completion_stats.successful_count if job.completion_stats else 0) or 0
        failed = state == "JOB_STATE_FAILED" and not answered
        return RemoteBatch(
            job.name,
            state in _ENDED,
            self._explain_refusal(job) if failed else None,
            (folder,) if folder else (),
        )

    def _explain_refusal(self, job: types.BatchJob) -> ProviderError:
        reason = (job.error.message if job.error else None) or "Google gives no reason"
        text = self._caller.scrub(f"batch {job.name} failed: {reason}")
        if "quota" in reason.lower() or "RESOURCE_EXHAUSTED" in reason:
            return RateLimited(f"{text}; wait until earlier batches have ended, then run again")
        return BadRequest(
            f"{text}; look at {job.src.gcs_uri if job.src else 'its input'}, or set "
            "evaluation.batch = false"
        )


class LazyBatches:
    """Implements `providers.base.BatchClient`; `open_batches` connects at the first call.

    Example: `LazyBatches(open_batches)`.
    """

    def __init__(self, open_batches: Callable[[], Awaitable[Batches]]) -> None:
        self._open = open_batches

    async def complete_batch(self, requests: Sequence[Request]) -> Mapping[str, BatchOutcome]:
        return await (await self._open()).complete_batch(requests)

    async def cancel(self) -> int:
        return await (await self._open()).cancel()
