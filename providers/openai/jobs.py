"""Fine-tuning jobs of OpenAI's API: submitted once, found again, followed to their end.

https://platform.openai.com/docs/api-reference/fine-tuning; Azure's `/openai/v1/`, Nebius and others
offer the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from openai import AsyncOpenAI, Omit, omit
from openai.pagination import AsyncCursorPage
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint

from providers.calling import (
    LISTING_LAG_S,
    Caller,
    UnreadableAnswer,
    compute_pause,
    create_once,
    find_status,
)
from providers.errors import (
    BadRequest,
    InvalidTrainingData,
    ModelNotFound,
    ProviderError,
    RetryableError,
    TrainingFailed,
    Unsupported,
)
from providers.openai.calling import list_items, list_pages, require_id
from providers.openai.files import FilePolling, Files, write_training_file
from providers.openai.job_format import (
    DIGEST_KEY,
    JobRequest,
    TrainingLog,
    build_job_request,
    build_job_state,
    map_status,
    parse_number,
)
from providers.types import Example, FinetuneSpec, JobHandle, JobState

T = TypeVar("T")

_PAGE = 100
_DATA_WORDS = ("training_file", "validation_file", "training file", "validation file", "example")
_CLOSED_WORDS = ("not available", "no longer", "not allowed", "not enabled", "does not support")
# A server that says "succeeded" and names no model in so many polls will not name one later.
_NAMELESS_POLLS = 20
# Events and checkpoints are optional: so long, and so often at the job's end, they are asked for.
_OPTIONAL_S = 60.0
_LAST_ATTEMPTS = 3
_LAST_PAUSE_S = 4.0


class FinetuningJobs:
    """The fine-tuning jobs of one account for one base model.

    `client` must not retry by itself (max_retries=0), since that would create jobs twice. `base` is
    the server's name of the untuned model, `address` its model address; `lag_s` is how long a list
    may not show a new job. The methods mean what they mean in `providers.base.Provider`.

        jobs = FinetuningJobs(client, caller, base="gpt-4.1-mini", address="openai:gpt-4.1-mini")
        handle = await jobs.find(spec) or await jobs.submit(spec)
        state = await jobs.poll(handle)
    """

    def __init__(
        self,
        client: AsyncOpenAI,
        caller: Caller,
        *,
        base: str,
        address: str,
        polling: FilePolling | None = None,
        lag_s: float = LISTING_LAG_S,
    ) -> None:
        # A retry inside the package could create a second job, unseen.
        if client.max_retries:
            raise ValueError("the client retries by itself; make it with max_retries=0")
        self._client = client
        self._caller = caller
        self._base = base
        self._address = address
        self._lag_s = lag_s
        self._files = Files(client, caller, polling)
        self._logs: dict[str, TrainingLog] = {}
        self._nameless: dict[str, int] = {}
        self._unseen_until: dict[str, float] = {}
        self._missing: str | None = None
        self._marked = False

    async def submit(self, spec: FinetuneSpec) -> JobHandle:
        """Upload the data, unless this or another job has uploaded them, then create the job.

        Call `find` first. Raises `AmbiguousSubmission` if it is unknown whether there is a job now,
        `InvalidTrainingData`, `InvalidSettings`, `BadRequest`, `Unsupported` if the endpoint is
        closed, and other `RunError`s.
        """
        request = build_job_request(spec, self._base)
        # On a server that drops metadata a job may be recognized by its file alone (see `find`), so
        # there every job needs a file of its own.
        content = request.content if self._marked else None
        training = await self._upload(spec.examples, request.file_name, content)
        validation = None
        if spec.validation:
            content = request.validation_content if self._marked else None
            validation = await self._upload(spec.validation, request.validation_name, content)

        async def create() -> FineTuningJob:
            return await self._create(request, training, validation)

        try:
            job = await create_once(self._caller, f"job {spec.name}", create, self._lag_s)
        except ProviderError as error:
            raise _explain_refusal(error, spec.name, _format_files(training, validation)) from error
        # Until then a "not found" means that the server's copies do not agree yet.
        self._unseen_until[job.id] = time.monotonic() + self._lag_s
        return _make_handle(job, spec)

    async def find(self, spec: FinetuneSpec) -> JobHandle | None:
        """The job that was created for exactly this spec, by the digest in its metadata.

        Some servers drop metadata. There a job counts if it has the suffix, or trains on the file,
        that only this spec has.
        """
        marked: list[FineTuningJob] = []
        unmarked: list[FineTuningJob] = []
        # All pages: a job of an earlier start may be behind any number of others.
        async for job in self._list_jobs():
            metadata = job.metadata if isinstance(job.metadata, dict) else {}
            self._marked |= DIGEST_KEY in metadata or _find_suffix(job) is not None
            if metadata.get(DIGEST_KEY) == spec.digest:
                marked.append(job)
            elif not metadata:
                unmarked.append(job)
        if not marked and unmarked:
            marked = await self._match_unmarked(unmarked, spec)
        return _make_handle(_choose_best(marked), spec) if marked else None

    async def poll(self, handle: JobHandle) -> JobState:
        """The job's state, with everything its events have said so far.

        Raises `TrainingFailed` for a job the server does not know, unless it was created just now.
        """
        try:
            job = await self._retrieve(handle)
        except TrainingFailed:
            if time.monotonic() >= self._unseen_until.get(handle.job_id, 0.0):
                raise
            return JobState("queued", "not seen yet")
        status = map_status(job.status)
        log = self._logs.setdefault(handle.job_id, TrainingLog())
        ended = status in ("succeeded", "failed", "cancelled")
        # A job that waits has no events worth a request.
        if status != "queued":
            await self._read_events(handle.job_id, log, whole=ended)
        checkpoints = await self._list_checkpoints(handle.job_id) if status == "succeeded" else []
        state = build_job_state(job, log, checkpoints, name=handle.name, address=self._address)
        state = replace(state, note=self._missing)
        if state.error is not None:
            error = f"{state.error} [{_format_files(job.training_file, job.validation_file)}]"
            state = replace(state, error=self._caller.scrub(error))
        if status == "succeeded" and state.model is None:
            return self._count_nameless_poll(handle, state)
        return state

    async def cancel(self, handle: JobHandle) -> None:
        """Stop the job. A job that has ended, or that the server does not know, stays as it is."""
        try:
            await self._caller.call_with_retry(
                lambda: self._client.fine_tuning.jobs.cancel(handle.job_id)
            )
        except ProviderError as error:
            # The server has forgotten the job, so it cannot be running.
            if find_status(error) == 404:
                return
            if find_status(error) != 400:
                raise
            # A status 400 may mean that the job has ended already.
            job = await self._retrieve(handle)
            if map_status(job.status) in ("queued", "running"):
                raise

    async def delete_model(self, model: str) -> None:
        """Delete a tuned model; nothing happens if the server does not know it."""
        try:
            await self._caller.call_with_retry(lambda: self._client.models.delete(model))
        except ProviderError as error:
            # An earlier attempt whose answer was lost may have deleted it.
            if find_status(error) != 404:
                raise

    async def _upload(self, examples: Sequence[Example], name: str, content: str | None) -> str:
        with TemporaryDirectory(prefix="society-") as folder:
            path = Path(folder) / name
            local = await asyncio.to_thread(write_training_file, examples, path)
            return await self._files.ensure_uploaded(local, name, "fine-tune", content)

    async def _create(
        self, request: JobRequest, training: str, validation: str | None
    ) -> FineTuningJob:
        job = await self._client.fine_tuning.jobs.create(
            model=request.model,
            training_file=training,
            validation_file=omit if validation is None else validation,
            suffix=request.suffix,
            seed=request.seed,
            metadata=dict(request.metadata),
            method=request.method,
        )
        require_id(job)
        return job

    def _list_jobs(self) -> AsyncIterator[FineTuningJob]:
        async def fetch_page(after: str | Omit) -> AsyncCursorPage[FineTuningJob]:
            return await self._client.fine_tuning.jobs.list(limit=_PAGE, after=after)

        return list_items(self._caller.call_with_retry, "fine-tuning jobs", fetch_page)

    async def _match_unmarked(
        self, jobs: Sequence[FineTuningJob], spec: FinetuneSpec
    ) -> list[FineTuningJob]:
        """The jobs with this spec's suffix or training file, both of which are unique to it."""
        request = build_job_request(spec, self._base)
        names = await self._files.list_names("fine-tune")
        return [
            job
            for job in jobs
            if (_find_suffix(job) or request.suffix) == request.suffix
            and (
                _find_suffix(job) is not None
                or request.suffix in (job.fine_tuned_model or "")
                or names.get(job.training_file) == request.file_name
            )
        ]

    async def _retrieve(self, handle: JobHandle) -> FineTuningJob:
        async def retrieve() -> FineTuningJob:
            job = await self._client.fine_tuning.jobs.retrieve(handle.job_id)
            require_id(job)
            return job

        try:
            return await self._caller.call_with_retry(retrieve)
        except ProviderError as error:
            if find_status(error) != 404:
                raise
            raise TrainingFailed(
                f"the server knows no job {handle.job_id}; run again to make a new one"
            ) from error

    async def _read_events(self, job_id: str, log: TrainingLog, *, whole: bool) -> None:
        """Add new events to `log`. Events come newest first, so reading stops at a known one; with
        `whole` all are read, for servers that list them in another order.
        """

        async def fetch_page(after: str | Omit) -> AsyncCursorPage[FineTuningJobEvent]:
            return await self._client.fine_tuning.jobs.list_events(job_id, limit=_PAGE, after=after)

        # Whatever arrives before a failure counts; the poll after the job's end reads everything.
        fresh: list[FineTuningJobEvent] = []
        with self._tolerate_failure("events", last=whole):
            async with asyncio.timeout(_OPTIONAL_S):
                call = self._retry_briefly if whole else self._caller.call_once
                async for page in list_pages(call, "job events", fetch_page):
                    known = any(log.has_event(event) for event in page)
                    fresh += page
                    if known and not whole:
                        break
        log.add_events(fresh)

    async def _list_checkpoints(self, job_id: str) -> list[FineTuningJobCheckpoint]:
        async def fetch_page(after: str | Omit) -> AsyncCursorPage[FineTuningJobCheckpoint]:
            return await self._client.fine_tuning.jobs.checkpoints.list(
                job_id, limit=_PAGE, after=after
            )

        found: list[FineTuningJobCheckpoint] = []
        with self._tolerate_failure("checkpoints", last=True):
            async with asyncio.timeout(_OPTIONAL_S):
                async for page in list_pages(self._retry_briefly, "checkpoints", fetch_page):
                    found += page
        return found

    async def _retry_briefly(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call, again after a passing failure, but only a few times."""
        for attempt in range(_LAST_ATTEMPTS - 1):
            try:
                return await self._caller.call_once(call)
            # Asking again would bring the same form.
            except UnreadableAnswer:
                raise
            except RetryableError as error:
                await self._caller.sleep(min(_LAST_PAUSE_S, compute_pause(error, attempt)))
        return await self._caller.call_once(call)

    @contextmanager
    def _tolerate_failure(self, what: str, *, last: bool) -> Iterator[None]:
        """For lists that are optional, and that not every server of this kind has.

        A missing list is no reason to give up a healthy job. A problem with the key or the server
        shows in the call for the job itself. `last`: there will be no further call for this list,
        so even a passing failure is final.
        """
        try:
            yield
        except (ProviderError, TimeoutError) as error:
            passing = isinstance(error, RetryableError | TimeoutError)
            final = last or not passing or isinstance(error, UnreadableAnswer)
            if what == "events" and final and self._missing is None:
                code = find_status(error)
                reason = f"status {code}" if code else str(error) or "no answer in time"
                self._missing = (
                    f"the server gives no events of its fine-tuning jobs ({reason}), so there is "
                    "no loss curve; the jobs themselves continue"
                )

    def _count_nameless_poll(self, handle: JobHandle, state: JobState) -> JobState:
        """The state of a job that succeeded without a model's name: failed after some polls."""
        polls = self._nameless[handle.job_id] = self._nameless.get(handle.job_id, 0) + 1
        if polls < _NAMELESS_POLLS:
            return state
        reason = (
            f"the server says {state.raw_status!r} and names no tuned model; look at job "
            f"{handle.job_id} at the vendor; running again asks again and makes no second job"
        )
        return replace(state, status="failed", error=reason)


def _make_handle(job: FineTuningJob, spec: FinetuneSpec) -> JobHandle:
    return JobHandle(job.id, spec.name, spec.digest)


def _find_suffix(job: FineTuningJob) -> str | None:
    """The suffix a job was created with; OpenAI returns it although its schema does not have it."""
    suffix = getattr(job, "user_provided_suffix", None)
    return suffix if isinstance(suffix, str) and suffix else None


def _choose_best(jobs: Sequence[FineTuningJob]) -> FineTuningJob:
    """The job to continue with, of several for one spec: alive before failed, then the oldest."""
    rank = {"succeeded": 0, "running": 1, "queued": 1, "failed": 2, "cancelled": 3}
    return min(
        jobs, key=lambda job: (rank[map_status(job.status)], parse_number(job.created_at) or 0.0)
    )


def _format_files(training: str, validation: str | None) -> str:
    suffix = f", validation file {validation}" if validation else ""
    return f"training file {training}{suffix}"


def _explain_refusal(error: ProviderError, name: str, files: str) -> ProviderError:
    """What a clear refusal of a new job on these `files` means."""
    # Vendors have no codes for these refusals, only words.
    code, text = find_status(error), str(error)
    lowered = text.lower()
    if code in (404, 405, 501) and not isinstance(error, ModelNotFound):
        return Unsupported(
            f"this server has no fine-tuning jobs ({text}); choose another provider, or a local "
            "model, for the models that learn"
        )
    if code == 403 or (code == 400 and any(words in lowered for words in _CLOSED_WORDS)):
        return Unsupported(
            f"fine-tuning is closed to this account or this model ({text}); choose another "
            "provider, or a local model, for the models that learn"
        )
    if isinstance(error, BadRequest) and any(words in lowered for words in _DATA_WORDS):
        return InvalidTrainingData(f"job {name} was refused: {text} [{files}]")
    if isinstance(error, BadRequest):
        return BadRequest(f"job {name} was refused: {text} [{files}]")
    return error
