"""Intent → submit → poll → adopt the result, for one job that survives being interrupted anywhere.

What is stored before and after every step, and the provider's `find`, decide together where a job
goes on. A job that may exist is looked for, never sent again blindly.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import replace

from finetune.errors import (
    FinetuneError,
    JobChanged,
    SubmissionUnknown,
    TuningFailed,
    TuningStopped,
)
from finetune.plans import KEPT_SUFFIX, KeptModel, OnFailure, Polling, TuningPlan, TuningProgress
from providers.base import Provider
from providers.errors import AmbiguousSubmission, JobError, RequestError, RetryableError
from providers.types import (
    Capabilities,
    FinetuneSpec,
    JobHandle,
    JobState,
    JobStatus,
    ModelRef,
)
from store.ledger import Store
from store.records import Checkpoint, Job, Model, Row, StoredJobStatus, TrainingPoint, utc_now

OnProgress = Callable[[TuningProgress], None]


class Tuner:
    """Sees one plan through."""

    def __init__(
        self,
        provider: Provider,
        store: Store,
        plan: TuningPlan,
        on_progress: OnProgress | None,
        polling: Polling,
        on_failure: OnFailure = "stop",
    ) -> None:
        self._provider = provider
        self._store = store
        self._plan = plan
        self._on_progress = on_progress
        self._polling = polling
        self._on_failure = on_failure

    async def run(
        self, slots: asyncio.Semaphore, capabilities: Capabilities
    ) -> ModelRef | KeptModel | FinetuneError:
        """The new model, or why the old one stays, or what made this one job fail."""
        spec, minimum = self._plan.spec(self._store), max(1, capabilities.min_examples)
        if len(spec.examples) < minimum:
            reason = f"{len(spec.examples)} examples, the provider needs {minimum}"
            if self._plan.dataset.note:
                reason += f" ({self._plan.dataset.note})"
            return await self._keep(spec, reason)
        given_up = self._given_up(spec)
        earlier = self._store.job(given_up.name)
        if earlier is not None and earlier.digest == given_up.digest:
            return KeptModel(self._plan.agent, self._plan.role, str(earlier.error))
        async with slots:
            try:
                return await self._tune()
            except TuningStopped as failure:
                return failure
            except TuningFailed as failure:
                if self._on_failure == "keep":
                    return await self._keep(given_up, str(failure))
                return failure
            except SubmissionUnknown as failure:
                return failure

    @property
    def began(self) -> bool:
        """Whether the provider has, or may have, a job of this very plan."""
        job = self._store.job(self._plan.spec(self._store).name)
        return job is not None and job.shared_job_id is None and job.status != "skipped"

    async def follow(self, outcome: ModelRef | KeptModel) -> ModelRef | KeptModel:
        """Take over what the same training has come to for another arm."""
        spec = self._plan.spec(self._store)
        if isinstance(outcome, KeptModel):
            return await self._keep(self._given_up(spec), outcome.reason)
        stored, origin = self._store.job(spec.name), self._store.model(outcome.model_id)
        if stored is None and origin is not None:
            job = self._described(spec, "succeeded")
            stored = replace(
                job, raw_status="shared", shared_job_id=origin.job_id, finished_at=utc_now()
            )
            await self._save(stored)
        if stored is not None:
            self._tell(stored)
        return outcome

    def _given_up(self, spec: FinetuneSpec) -> FinetuneSpec:
        """The record that the old model stays although it could have been tuned.

        It is final: a run that went on with the old model must not come to have another one.
        """
        return replace(spec, name=f"{spec.name}{KEPT_SUFFIX}")

    async def _keep(self, spec: FinetuneSpec, reason: str) -> KeptModel:
        job = self._described(spec, "skipped")
        await self._save(replace(job, error=reason, finished_at=utc_now()))
        self._tell(job, reason=reason)
        return KeptModel(self._plan.agent, self._plan.role, reason)

    async def _tune(self) -> ModelRef:
        spec, job, handle = await self._attempt()
        if job is not None and job.status == "succeeded":
            return self._adopted(job)
        # An earlier process may have submitted it the moment before it ended.
        doubtful = job is not None and job.status == "intent"
        if job is None or job.status in ("failed", "cancelled", "skipped"):
            job = self._described(spec, "intent")
        await self._save(job)
        self._tell(job)
        handle = handle or await self._recorded(job)
        if handle is None and doubtful:
            handle = await self._look_for(spec, self._provider.capabilities.listing_lag_s)
        if handle is None:
            handle = await self._submit(job, spec)
        if job.provider_job_id != handle.job_id:
            job = replace(job, status="submitted", provider_job_id=handle.job_id)
            await self._save(job)
            self._tell(job)
        return await self._watch(job, handle)

    async def _attempt(self) -> tuple[FinetuneSpec, Job | None, JobHandle | None]:
        """The first attempt that is not known to have failed, here and at the provider.

        One that has failed may have had other settings than the plan has by now.
        """
        for attempt in itertools.count(1):
            spec = self._plan.spec(self._store, attempt)
            job = self._store.job(spec.name)
            if job is not None and job.status == "skipped":
                job = None
            if job is not None and job.digest != spec.digest:
                handle = await self._alive(job, attempt)
                if handle is None:
                    continue
                self._plan = self._plan.with_settings(str(job.settings))
                return self._plan.spec(self._store, attempt), job, handle
            if job is not None and job.status == "succeeded":
                return spec, job, None
            handle = await self._provider.find(spec)
            if handle is None or job is None or job.status not in ("failed", "cancelled"):
                return spec, job, handle
            if (await self._provider.poll(handle)).status not in ("failed", "cancelled"):
                return spec, job, handle
        raise AssertionError

    async def _alive(self, job: Job, attempt: int) -> JobHandle | None:
        """A job with other settings than the plan's, where the provider has it in spite of all.

        One that is not there any more, such as a fit that ended with its process, is given up.
        Raises `JobChanged` where there is a model already, or nobody knows what the settings were.
        """
        over = job.status in ("failed", "cancelled")
        if job.settings is None or job.status == "succeeded":
            if over:
                return None
            raise JobChanged(
                f"job {job.job_id} ({self._plan.title}) is stored with other settings, data or "
                "start; go on with the settings it was made with, or take another run name"
            )
        handle = await self._recorded(job)
        if handle is None and not over:
            spec = self._plan.with_settings(job.settings).spec(self._store, attempt)
            lag_s = self._provider.capabilities.listing_lag_s
            handle = await self._look_for(spec, lag_s) if lag_s else await self._provider.find(spec)
        if handle is None and not over:
            reason = "given up for other settings; it ended with the process it ran in"
            given_up = replace(job, status="cancelled", error=reason, finished_at=utc_now())
            await self._save(given_up)
        return handle

    async def _recorded(self, job: Job) -> JobHandle | None:
        """The job we know the provider's id of, if it is alive although `find` does not see it."""
        if job.provider_job_id is None:
            return None
        handle = JobHandle(job.provider_job_id, job.job_id, job.digest)
        try:
            state = await self._provider.poll(handle)
        except JobError:
            return None
        return None if state.status in ("failed", "cancelled") else handle

    async def _submit(self, job: Job, spec: FinetuneSpec) -> JobHandle:
        """Submit the job; again only where it has settled that there is none.

        Raises `SubmissionUnknown` where that cannot be known, or fails time after time.
        """
        for _ in range(self._polling.submissions):
            try:
                return await self._provider.submit(spec)
            except AmbiguousSubmission as error:
                unknown = error
            except (JobError, RequestError) as error:
                raise await self._failed(job, "rejected", str(error)) from error
            handle = await self._look_for(spec, unknown.settles_in_s or 0.0)
            if handle is not None:
                return handle
            if unknown.settles_in_s is None:
                break
        await self._save(replace(job, raw_status="ambiguous", error=str(unknown)))
        raise SubmissionUnknown(
            f"{self._plan.title}: nobody knows whether job {spec.name} was created ({unknown}); "
            "look for it at the provider; running again adopts it if it is there, and only "
            "otherwise submits it"
        ) from unknown

    async def _look_for(self, spec: FinetuneSpec, least_s: float) -> JobHandle | None:
        """The job, where the provider comes to see it within `least_s` seconds."""
        polling, waited, looks = self._polling, 0.0, 0
        wait = polling.first_s
        while True:
            handle = await self._provider.find(spec)
            looks += 1
            if handle is not None or (looks >= polling.patience and waited >= least_s):
                return handle
            await asyncio.sleep(wait)
            waited += wait
            wait = min(polling.longest_s, polling.look_s, 2 * wait)

    async def _watch(self, job: Job, handle: JobHandle) -> ModelRef:
        least = self._provider.capabilities.poll_s
        wait, strikes, points = max(least, self._polling.first_s), 0, 0
        while True:
            try:
                state = await self._provider.poll(handle)
            except JobError as error:
                raise await self._failed(job, "failed", str(error)) from error
            except RetryableError:
                strikes += 1
                if strikes > self._polling.patience:
                    raise
            else:
                strikes = 0
                if state.done:
                    return await self._finish(job, state, points)
                job = await self._note(job, state, points)
                points = len(state.points)
            await asyncio.sleep(wait)
            wait = max(least, min(self._polling.longest_s, wait * self._polling.growth))

    async def _note(self, job: Job, state: JobState, known: int) -> Job:
        status: StoredJobStatus = "running" if state.status == "running" else "submitted"
        rows: list[Row] = list(_list_new_points(job, state, known))
        if (job.status, job.raw_status) != (status, state.raw_status):
            job = replace(job, status=status, raw_status=state.raw_status)
            rows.append(job)
        await self._store.append(*rows)
        self._tell(job, state)
        return job

    async def _finish(self, job: Job, state: JobState, known: int) -> ModelRef:
        await self._store.append(
            *_list_new_points(job, state, known), *_list_checkpoints(job, state)
        )
        if state.status != "succeeded":
            reason = state.error or f"the provider says {state.raw_status!r} and no more"
            raise await self._failed(job, state.raw_status, reason, state.status, fatal=state.fatal)
        if state.model is None:
            raise await self._failed(job, state.raw_status, "succeeded without naming a model")
        job = replace(
            job,
            status="succeeded",
            raw_status=state.raw_status,
            error=None,
            trained_tokens=state.trained_tokens,
            finished_at=utc_now(),
        )
        await self._store.append(*self._models(job, state.model, state.artifact_sha256), job)
        self._tell(job, state)
        return state.model

    def _models(self, job: Job, model: ModelRef, sha256: str | None) -> list[Model]:
        plan, start = self._plan, self._plan.start
        tuned = Model(
            model_id=model.model_id,
            provider=model.address,
            parent_id=start.model_id,
            artifact=model.artifact,
            sha256=sha256,
            dataset_id=plan.dataset.dataset_id,
            job_id=job.job_id,
            iteration=plan.iteration,
            arm=plan.arm,
            agent=plan.agent,
            role=plan.role,
        )
        if self._store.model(start.model_id) is None:
            return [Model(start.model_id, start.address, artifact=start.artifact), tuned]
        return [tuned]

    def _adopted(self, job: Job) -> ModelRef:
        for model in self._store.models(job.iteration, job.arm):
            if model.job_id == job.job_id:
                self._tell(job)
                return ModelRef(model.model_id, model.provider, model.artifact, model.sha256)
        raise JobChanged(f"job {job.job_id} is stored as succeeded without its model")

    async def _failed(
        self,
        job: Job,
        raw_status: str,
        reason: str,
        status: JobStatus = "failed",
        *,
        fatal: bool = False,
    ) -> TuningFailed:
        ended: StoredJobStatus = "cancelled" if status == "cancelled" else "failed"
        job = replace(job, status=ended, raw_status=raw_status, error=reason, finished_at=utc_now())
        await self._save(job)
        self._tell(job, reason=reason)
        name = job.job_id
        if job.provider_job_id not in (None, name):
            name += f" ({job.provider_job_id} at the provider)"
        told = f"{self._plan.title}: job {name} {ended}: {reason}; "
        if fatal:
            return TuningStopped(f"{told}then run again, finished jobs are not repeated")
        return TuningFailed(
            f"{told}remove the cause and run again, finished jobs are not repeated, or go on with "
            'the old model: finetune.on_failure = "keep"'
        )

    def _described(self, spec: FinetuneSpec, status: StoredJobStatus) -> Job:
        plan = self._plan
        return Job(
            job_id=spec.name,
            iteration=plan.iteration,
            arm=plan.arm,
            agent=plan.agent,
            role=plan.role,
            dataset_id=plan.dataset.dataset_id,
            digest=spec.digest,
            status=status,
            settings=plan.settings,
        )

    async def _save(self, job: Job) -> None:
        await self._store.append(job)

    def _tell(self, job: Job, state: JobState | None = None, reason: str | None = None) -> None:
        if self._on_progress is None:
            return
        done = 1.0 if job.status in ("succeeded", "skipped") else 0.0
        self._on_progress(
            TuningProgress(
                iteration=job.iteration,
                arm=job.arm,
                agent=job.agent,
                role=job.role,
                job_id=job.job_id,
                status=job.status,
                progress=done if state is None else state.progress,
                loss=state.points[-1].loss if state and state.points else None,
                reason=reason,
                note=state.note if state else None,
            )
        )


def _list_checkpoints(job: Job, state: JobState) -> list[Checkpoint]:
    return [Checkpoint(job.job_id, c.step, c.model, c.loss) for c in state.checkpoints]


def _list_new_points(job: Job, state: JobState, known: int) -> list[TrainingPoint]:
    return [
        TrainingPoint(job.job_id, point.step, point.loss, point.learning_rate)
        for point in state.points[known:]
    ]
