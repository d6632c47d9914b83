"""One job from intent to submit, poll and adopt; it can be interrupted at any moment.

The job's stored row, written before and after every step, and the provider's `find` decide together
where a job resumes. A job that may exist is looked for, never submitted again blindly: a provider
would be paid twice.
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
from store.records import Checkpoint, Job, Model, StoredJobStatus, TrainingPoint, utc_now
from store.tables import Record

OnProgress = Callable[[TuningProgress], None]


class Tuner:
    """Carries out one plan.

    ```python
    tuner = Tuner(provider, store, plan, on_progress=None, polling=Polling())
    outcome = await tuner.run(asyncio.Semaphore(1), provider.capabilities)
    ```
    """

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
        """The new model, or why the old one stays, or the error that this one job failed with."""
        spec, minimum = self._plan.spec(self._store), max(1, capabilities.min_examples)
        if len(spec.examples) < minimum:
            reason = f"{len(spec.examples)} examples, the provider needs {minimum}"
            if self._plan.dataset.note:
                reason += f" ({self._plan.dataset.note})"
            return await self._keep(spec, reason)
        kept = self._rename_as_kept(spec)
        earlier = self._store.job(kept.name)
        if earlier is not None and earlier.digest == kept.digest:
            return KeptModel(self._plan.agent, self._plan.role, str(earlier.error))
        async with slots:
            try:
                return await self._tune()
            # Returned, not raised: other jobs are running, and `tune_models` lets them finish.
            except TuningStopped as failure:
                return failure
            except TuningFailed as failure:
                if self._on_failure == "keep":
                    return await self._keep(kept, str(failure))
                return failure
            except SubmissionUnknown as failure:
                return failure

    @property
    def has_begun(self) -> bool:
        """Whether the provider has, or may have, a job of this very plan."""
        job = self._store.job(self._plan.spec(self._store).name)
        return job is not None and job.shared_job_id is None and job.status != "skipped"

    async def share_outcome(self, outcome: ModelRef | KeptModel) -> ModelRef | KeptModel:
        """Record the outcome of the same training, which another arm's plan has led, as ours."""
        spec = self._plan.spec(self._store)
        if isinstance(outcome, KeptModel):
            return await self._keep(self._rename_as_kept(spec), outcome.reason)
        stored, origin = self._store.job(spec.name), self._store.model(outcome.model_id)
        if stored is None and origin is not None:
            job = self._describe_job(spec, "succeeded")
            stored = replace(
                job, raw_status="shared", shared_job_id=origin.job_id, finished_at=utc_now()
            )
            await self._save(stored)
        if stored is not None:
            self._report(stored)
        return outcome

    def _rename_as_kept(self, spec: FinetuneSpec) -> FinetuneSpec:
        """The spec under the name of the record that the old model stays for good.

        The record is final: later debates used the old model, so a resume must not replace it.
        """
        return replace(spec, name=f"{spec.name}{KEPT_SUFFIX}")

    async def _keep(self, spec: FinetuneSpec, reason: str) -> KeptModel:
        job = self._describe_job(spec, "skipped")
        await self._save(replace(job, error=reason, finished_at=utc_now()))
        self._report(job, reason=reason)
        return KeptModel(self._plan.agent, self._plan.role, reason)

    async def _tune(self) -> ModelRef:
        spec, job, handle = await self._find_attempt()
        if job is not None and job.status == "succeeded":
            return self._load_model(job)
        # The intent is stored before the job is submitted. A process that ended in between leaves a
        # row that says "intent", and then the job may or may not exist.
        may_exist = job is not None and job.status == "intent"
        if job is None or job.status in ("failed", "cancelled", "skipped"):
            job = self._describe_job(spec, "intent")
        await self._save(job)
        self._report(job)
        # Lists of jobs lag, and some leave out old jobs, so the stored id is asked for as well.
        handle = handle or await self._find_recorded(job)
        if handle is None and may_exist:
            handle = await self._look_for(spec, self._provider.capabilities.listing_lag_s)
        if handle is None:
            handle = await self._submit(job, spec)
        if job.provider_job_id != handle.job_id:
            job = replace(job, status="submitted", provider_job_id=handle.job_id)
            await self._save(job)
            self._report(job)
        return await self._poll_to_end(job, handle)

    async def _find_attempt(self) -> tuple[FinetuneSpec, Job | None, JobHandle | None]:
        """The first attempt that has not failed, by the store or by the provider.

        The attempts that failed may have had other settings than the plan has now.
        """
        for attempt in itertools.count(1):
            spec = self._plan.spec(self._store, attempt)
            job = self._store.job(spec.name)
            # There were too few examples for a job under this name, and now there are enough.
            if job is not None and job.status == "skipped":
                job = None
            if job is not None and job.digest != spec.digest:
                handle = await self._find_with_other_settings(job, attempt)
                if handle is None:
                    continue
                self._plan = self._plan.with_settings(str(job.settings))
                return self._plan.spec(self._store, attempt), job, handle
            if job is not None and job.status == "succeeded":
                return spec, job, None
            handle = await self._provider.find(spec)
            if handle is None or job is None or job.status not in ("failed", "cancelled"):
                return spec, job, handle
            # A job that the store has as failed may still live at the provider.
            if (await self._provider.poll(handle)).status not in ("failed", "cancelled"):
                return spec, job, handle
        raise AssertionError

    async def _find_with_other_settings(self, job: Job, attempt: int) -> JobHandle | None:
        """The provider's job for a row with other settings than the plan's, None if it has none.

        A job that no longer exists, such as a fit that ended with its process, is recorded as
        cancelled. Raises `JobChanged` if the job has made a model, or its settings are unknown.
        """
        # Settings that have changed must not lead to a second paid job while the first one runs. So
        # the first one counts, with its own settings, as long as the provider still has it.
        over = job.status in ("failed", "cancelled")
        if job.settings is None or job.status == "succeeded":
            if over:
                return None
            raise JobChanged(
                f"job {job.job_id} ({self._plan.title}) is stored with other settings, data or "
                "start; use the settings it was made with, or another run name"
            )
        handle = await self._find_recorded(job)
        if handle is None and not over:
            spec = self._plan.with_settings(job.settings).spec(self._store, attempt)
            lag_s = self._provider.capabilities.listing_lag_s
            handle = await self._look_for(spec, lag_s) if lag_s else await self._provider.find(spec)
        if handle is None and not over:
            reason = "replaced by a job with other settings; it ended with the process it ran in"
            await self._save(replace(job, status="cancelled", error=reason, finished_at=utc_now()))
        return handle

    async def _find_recorded(self, job: Job) -> JobHandle | None:
        """The job with the stored provider id, if it lives although `find` does not list it."""
        if job.provider_job_id is None:
            return None
        handle = JobHandle(job.provider_job_id, job.job_id, job.digest)
        try:
            state = await self._provider.poll(handle)
        except JobError:
            return None
        return None if state.status in ("failed", "cancelled") else handle

    async def _submit(self, job: Job, spec: FinetuneSpec) -> JobHandle:
        """Submit the job; a second time only once it is certain that the first created none.

        Raises `SubmissionUnknown` if that stays unknown, or after too many tries.
        """
        for _ in range(self._polling.submissions):
            try:
                return await self._provider.submit(spec)
            except AmbiguousSubmission as error:
                unknown = error
            except (JobError, RequestError) as error:
                raise await self._record_failure(job, "rejected", str(error)) from error
            handle = await self._look_for(spec, unknown.settles_in_s or 0.0)
            if handle is not None:
                return handle
            # Only a provider that names a time after which a job shows makes its absence certain.
            if unknown.settles_in_s is None:
                break
        await self._save(replace(job, raw_status="ambiguous", error=str(unknown)))
        raise SubmissionUnknown(
            f"{self._plan.title}: it is unknown whether job {spec.name} was created ({unknown}); "
            "look for it at the provider; running again uses it if it is there, and submits it "
            "only if it is not"
        ) from unknown

    async def _look_for(self, spec: FinetuneSpec, least_s: float) -> JobHandle | None:
        """The job if the provider lists it; looks for `least_s` seconds or more, as lists lag."""
        polling, waited, tries = self._polling, 0.0, 0
        wait = polling.first_s
        while True:
            handle = await self._provider.find(spec)
            tries += 1
            if handle is not None or (tries >= polling.patience and waited >= least_s):
                return handle
            await asyncio.sleep(wait)
            waited += wait
            wait = min(polling.longest_s, polling.look_s, 2 * wait)

    async def _poll_to_end(self, job: Job, handle: JobHandle) -> ModelRef:
        least = self._provider.capabilities.poll_s
        wait, errors, points = max(least, self._polling.first_s), 0, 0
        while True:
            try:
                state = await self._provider.poll(handle)
            except JobError as error:
                raise await self._record_failure(job, "failed", str(error)) from error
            except RetryableError:
                errors += 1
                if errors > self._polling.patience:
                    raise
            else:
                errors = 0
                if state.done:
                    return await self._finish(job, state, points)
                job = await self._update(job, state, points)
                points = len(state.points)
            await asyncio.sleep(wait)
            wait = max(least, min(self._polling.longest_s, wait * self._polling.growth))

    async def _update(self, job: Job, state: JobState, known: int) -> Job:
        """Store what is new since the last poll, and nothing if nothing is: jobs run for hours."""
        status: StoredJobStatus = "running" if state.status == "running" else "submitted"
        rows: list[Record] = list(_list_new_points(job, state, known))
        if (job.status, job.raw_status) != (status, state.raw_status):
            job = replace(job, status=status, raw_status=state.raw_status)
            rows.append(job)
        await self._store.append(*rows)
        self._report(job, state)
        return job

    async def _finish(self, job: Job, state: JobState, known: int) -> ModelRef:
        """Store the end of the job; returns its model or raises why there is none."""
        await self._store.append(
            *_list_new_points(job, state, known), *_list_checkpoints(job, state)
        )
        if state.status != "succeeded":
            reason = state.error or f"the provider only says {state.raw_status!r}"
            raise await self._record_failure(
                job, state.raw_status, reason, state.status, fatal=state.fatal
            )
        if state.model is None:
            raise await self._record_failure(
                job, state.raw_status, "succeeded without naming a model"
            )
        job = replace(
            job,
            status="succeeded",
            raw_status=state.raw_status,
            error=None,
            trained_tokens=state.trained_tokens,
            base_kl=state.base_kl,
            left_out=state.left_out,
            finished_at=utc_now(),
        )
        # In one transaction, so that a job stored as succeeded always has its model.
        await self._store.append(*self._list_models(job, state.model, state.artifact_sha256), job)
        self._report(job, state)
        return state.model

    def _list_models(self, job: Job, model: ModelRef, sha256: str | None) -> list[Model]:
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
        # The tuned model's parent must be stored too; the base is not the result of any job.
        if self._store.model(start.model_id) is None:
            return [Model(start.model_id, start.address, artifact=start.artifact), tuned]
        return [tuned]

    def _load_model(self, job: Job) -> ModelRef:
        """The stored model of a job that has succeeded."""
        for model in self._store.models(job.iteration, job.arm):
            if model.job_id == job.job_id:
                self._report(job)
                return ModelRef(model.model_id, model.provider, model.artifact, model.sha256)
        raise JobChanged(f"job {job.job_id} is stored as succeeded without its model")

    async def _record_failure(
        self,
        job: Job,
        raw_status: str,
        reason: str,
        status: JobStatus = "failed",
        *,
        fatal: bool = False,
    ) -> TuningFailed:
        """Store that the job failed; returns the error to raise, with the remedy."""
        ended: StoredJobStatus = "cancelled" if status == "cancelled" else "failed"
        job = replace(job, status=ended, raw_status=raw_status, error=reason, finished_at=utc_now())
        await self._save(job)
        self._report(job, reason=reason)
        # A provider's own id is what the user finds on its website.
        name = job.job_id
        if job.provider_job_id not in (None, name):
            name += f" ({job.provider_job_id} at the provider)"
        failure = f"{self._plan.title}: job {name} {ended}: {reason}; "
        if fatal:
            return TuningStopped(f"{failure}then run again; finished jobs are not repeated")
        return TuningFailed(
            f"{failure}remove the cause and run again; finished jobs are not repeated. Or keep the "
            'old model: finetune.on_failure = "keep"'
        )

    def _describe_job(self, spec: FinetuneSpec, status: StoredJobStatus) -> Job:
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

    def _report(self, job: Job, state: JobState | None = None, reason: str | None = None) -> None:
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
                base_kl=job.base_kl,
            )
        )


def _list_checkpoints(job: Job, state: JobState) -> list[Checkpoint]:
    return [Checkpoint(job.job_id, c.step, c.model, c.loss) for c in state.checkpoints]


def _list_new_points(job: Job, state: JobState, known: int) -> list[TrainingPoint]:
    return [
        TrainingPoint(
            job.job_id,
            point.step,
            point.loss,
            point.learning_rate,
            point.reward_margin,
            point.reward_accuracy,
        )
        for point in state.points[known:]
    ]
