"""Tuning jobs on Vertex AI: submitted once, found again by their label, followed to their end.

https://docs.cloud.google.com/gemini-enterprise-agent-platform/reference/models/tuning
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from google.genai import types
from google.genai.tunings import AsyncTunings

from providers.bucket import Part, store_examples
from providers.calling import Caller, UnreadableAnswer, create_once, find_status
from providers.errors import (
    BadRequest,
    InvalidSettings,
    InvalidTrainingData,
    ModelNotFound,
    ProviderError,
    TrainingFailed,
    Unsupported,
)
from providers.gemini.client import GeminiConnection, GoogleBucket
from providers.gemini.deletion import ModelDeletion
from providers.gemini.job_format import (
    DIGEST_LABEL,
    MAX_BYTES,
    build_config,
    build_job_state,
    format_example,
    map_state,
    mark_digest,
)
from providers.gemini.settings import find_location
from providers.types import FinetuneSpec, JobHandle, JobState

T = TypeVar("T")

_PAGE = 100
_DATA_WORDS = ("dataset", "jsonl", "example", "row:", "row ", "contents")
_CLOSED_WORDS = ("not supported", "does not support", "not allowed", "not available")
# A job that says it succeeded and names no endpoint in so many polls will not name one later.
_NAMELESS_POLLS = 20


class TuningJobs:
    """The tuning jobs of one project for one base model. The methods mean what they mean in
    `providers.base.Provider`; `address` is the base's model address.

        jobs = TuningJobs(connection, "gemini:gemini-3.5-flash")
        handle = await jobs.find(spec) or await jobs.submit(spec)
        state = await jobs.poll(handle)
    """

    def __init__(self, connection: GeminiConnection, address: str) -> None:
        settings = connection.settings
        self._connection = connection
        self._address = address
        self._lag_s = settings.listing_lag_s
        self._tunings = connection.get_client(settings.jobs_at).tunings
        self._caller: Caller = connection.make_caller()
        self._unseen_until: dict[str, float] = {}
        self._nameless: dict[str, int] = {}
        self._made: dict[str, types.TunedModel] = {}
        self._deletion = ModelDeletion(connection)

    async def submit(self, spec: FinetuneSpec) -> JobHandle:
        """Upload the data unless they are there, then create the job.

        Call `find` first. Raises `AmbiguousSubmission` if it is unknown whether there is a job now,
        `InvalidTrainingData`, `InvalidSettings`, `BadRequest`, and other `RunError`s.
        """
        bucket = self.get_bucket()
        # Before the upload, so that what is refused costs nothing.
        build_config(spec, None)
        # A tuned model is known by its endpoint, while a job wants the model behind it.
        tuned = spec.start.artifact
        start = self._connection.model if tuned is None else await self.find_model(tuned)
        training = await self._upload(bucket, spec, "training")
        validation = await self._upload(bucket, spec, "validation") if spec.validation else None
        checkpoints = self._connection.settings.checkpoints
        config = build_config(spec, validation, checkpoints=checkpoints)

        async def create() -> types.TuningJob:
            job: types.TuningJob = await self._tunings.tune(
                base_model=start,
                training_dataset=types.TuningDataset(gcs_uri=training),
                config=config,
            )
            _require_name(job)
            return job

        try:
            job = await create_once(self._caller, f"job {spec.name}", create, self._lag_s)
        except ProviderError as error:
            raise _explain_refusal(error, spec.name, training) from error
        name = _require_name(job)
        # Until then a "not found" means that Google's copies do not agree yet.
        self._unseen_until[name] = time.monotonic() + self._lag_s
        return JobHandle(name, spec.name, spec.digest)

    async def find(self, spec: FinetuneSpec) -> JobHandle | None:
        """The job that was created for exactly this spec, by the digest in its label."""
        mark = mark_digest(spec.digest)
        jobs = [job for job in await self._list() if (job.labels or {}).get(DIGEST_LABEL) == mark]
        return JobHandle(_choose_best(jobs), spec.name, spec.digest) if jobs else None

    async def poll(self, handle: JobHandle) -> JobState:
        """The job's state. Raises `TrainingFailed` for a job that Google does not know, unless it
        was created just now.
        """
        try:
            job = await self._get(handle)
        except TrainingFailed:
            if time.monotonic() >= self._unseen_until.get(handle.job_id, 0.0):
                raise
            return JobState("queued", "not seen yet")
        state = build_job_state(job, name=handle.name, address=self._address)
        if state.error is not None:
            state = replace(state, error=self._caller.scrub(f"{state.error} [{handle.job_id}]"))
        if map_state(job) == "succeeded" and state.model is None:
            return self._count_nameless_poll(handle, state)
        return state

    async def cancel(self, handle: JobHandle) -> None:
        """Stop the job. A job that has ended, or that Google does not know, stays as it is."""
        try:
            tunings = self._get_tunings(handle)
            await self._caller.call_with_retry(lambda: tunings.cancel(name=handle.job_id))
        except ProviderError as error:
            if find_status(error) == 404:
                return
            if find_status(error) != 400:
                raise
            # A status 400 may mean that the job has ended already.
            if map_state(await self._get(handle)) in ("queued", "running"):
                raise

    async def find_model(self, endpoint: str) -> str:
        """The name of the tuned model that answers at an endpoint, by the job that has made both.

        Raises `ModelNotFound` if no job of this project has.
        """
        made = await self._find_made(endpoint)
        if made is None or made.model is None:
            raise ModelNotFound(
                f"no tuning job of this project has made {endpoint}, so that the model behind it "
                'is not known; set finetune.init = "fresh" and evaluation.batch = false, or use '
                "the project that made it"
            )
        return made.model

    async def delete_model(self, endpoint: str) -> None:
        """Delete a tuned model, by its endpoint, with all endpoints of its job; nothing happens if
        they are gone.
        """
        made = await self._find_made(endpoint) or await self._deletion.find_deployed(endpoint)
        # Nothing names a model here, but an empty endpoint may have been left.
        await self._deletion.delete(made or types.TunedModel(endpoint=endpoint))

    async def _find_made(self, endpoint: str) -> types.TunedModel | None:
        """What the job has made that has made an endpoint; None if no job of this project has."""
        if endpoint not in self._made:
            for job in await self._list():
                if (made := job.tuned_model) and made.endpoint and made.model:
                    self._made[made.endpoint] = made
        return self._made.get(endpoint)

    async def count_running(self) -> tuple[int, int]:
        """How many jobs the region has, and how many of them are under way."""
        jobs = await self._list()
        return len(jobs), sum(map_state(job) in ("queued", "running") for job in jobs)

    async def call(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call of the bucket, with retries."""
        return await self._caller.call_with_retry(call)

    def get_bucket(self) -> GoogleBucket:
        """The bucket for training data; raises `InvalidSettings` if none is set."""
        if self._connection.settings.bucket is None:
            raise InvalidSettings(
                "[provider] bucket is not set; name a Cloud Storage bucket for the training data, "
                f"in the region {self._connection.settings.jobs_at!r}"
            )
        return GoogleBucket(self._connection, self._connection.settings.bucket)

    async def _upload(self, bucket: GoogleBucket, spec: FinetuneSpec, part: Part) -> str:
        return await store_examples(bucket, self._caller, spec, part, format_example, MAX_BYTES)

    async def _list(self) -> list[types.TuningJob]:
        """All jobs of the region: one of an earlier start may be behind any number of others."""

        async def fetch() -> list[types.TuningJob]:
            config = types.ListTuningJobsConfig(page_size=_PAGE)
            return [job async for job in await self._tunings.list(config=config)]

        return await self._caller.call_with_retry(fetch)

    async def _get(self, handle: JobHandle) -> types.TuningJob:
        tunings = self._get_tunings(handle)
        try:
            return await self._caller.call_with_retry(lambda: tunings.get(name=handle.job_id))
        except ProviderError as error:
            if find_status(error) != 404:
                raise
            raise TrainingFailed(
                f"Google knows no job {handle.job_id}; run again to make a new one"
            ) from error

    def _get_tunings(self, handle: JobHandle) -> AsyncTunings:
        # The settings may name another region now than when the job was made.
        location = find_location(handle.job_id, self._connection.settings)
        return self._connection.get_client(location).tunings

    def _count_nameless_poll(self, handle: JobHandle, state: JobState) -> JobState:
        """The state of a job that succeeded without an endpoint: failed after some polls."""
        polls = self._nameless[handle.job_id] = self._nameless.get(handle.job_id, 0) + 1
        if polls < _NAMELESS_POLLS:
            return state
        reason = (
            f"Google says {state.raw_status!r} and names no endpoint; look at job {handle.job_id} "
            "in the console; running again asks again and makes no second job"
        )
        return replace(state, status="failed", error=reason)


def _require_name(job: types.TuningJob) -> str:
    if not job.name:
        raise UnreadableAnswer("Google answered with a job that has no name")
    return job.name


def _choose_best(jobs: Iterable[types.TuningJob]) -> str:
    """The job to continue with, of several for one spec: alive before failed, then the oldest."""
    rank = {"succeeded": 0, "running": 1, "queued": 1, "failed": 2, "cancelled": 3}
    best = min(jobs, key=lambda job: (rank[map_state(job)], str(job.create_time or "")))
    return _require_name(best)


def _explain_refusal(error: ProviderError, name: str, data: str) -> ProviderError:
    """What a clear refusal of a new job means. Google has no codes for these, only words."""
    text = str(error)
    lowered = text.lower()
    if isinstance(error, ModelNotFound):
        return ModelNotFound(
            f"the model cannot be tuned in this region ({text}); set provider.tuning_location, or "
            "choose a model that can be tuned: docs/cookbook/gemini.md"
        )
    if not isinstance(error, BadRequest):
        return error
    if any(words in lowered for words in _CLOSED_WORDS):
        return Unsupported(
            f"this model or setting cannot be tuned ({text}); choose a model that can be tuned: "
            "docs/cookbook/gemini.md"
        )
    if any(words in lowered for words in _DATA_WORDS):
        return InvalidTrainingData(f"job {name} was refused: {text} [{data}]")
    return BadRequest(f"job {name} was refused: {text} [{data}]")
