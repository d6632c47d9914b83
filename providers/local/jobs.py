"""Fine-tuning jobs on this machine: submitted, found, asked for, stopped."""

from __future__ import annotations

import threading
from pathlib import Path

from providers.artifact import Trained, load_trained
from providers.local.training_lanes import TrainingLanes
from providers.local.training_run import TrainingRun
from providers.types import FinetuneSpec, JobHandle, JobState, ModelRef


class LocalJobs:
    """The jobs of one provider. A job's name is its id and the name of its folder in `workdir`.

    ```python
    jobs = LocalJobs(lanes, workdir, "embedded:")
    handle = jobs.submit(spec)
    state = jobs.poll(handle)  # "queued", "running", "succeeded", …
    ```
    """

    def __init__(self, lanes: TrainingLanes, workdir: Path, address: str) -> None:
        self._lanes = lanes
        self._workdir = workdir
        self._address = address
        self._jobs: dict[str, TrainingRun] = {}
        self._submitting = threading.Lock()

    def submit(self, spec: FinetuneSpec) -> JobHandle:
        """Queue a job, or adopt the same job if it is already queued, running or done."""
        # The lock makes find and start one step: two tasks that submit the same spec get one job.
        with self._submitting:
            if self.find(spec) is None:
                job = TrainingRun(
                    spec, self._workdir / spec.name, lambda news, progress: self._lanes.review()
                )
                self._jobs[spec.name] = job
                self._lanes.submit(job)
        return _make_handle(spec)

    def find(self, spec: FinetuneSpec) -> JobHandle | None:
        """The job if it is queued, running or done; an interrupted job must be submitted again."""
        job = self._jobs.get(spec.name)
        if (
            job is not None
            and job.spec.digest == spec.digest
            and job.status in ("queued", "running")
        ):
            return _make_handle(spec)
        if load_trained(self._workdir / spec.name, spec.digest) is not None:
            return _make_handle(spec)
        return None

    def poll(self, handle: JobHandle) -> JobState:
        """The job's state; an artifact on disk counts, whichever process made it."""
        job = self._jobs.get(handle.job_id)
        # A job of an earlier process is known by its artifact alone.
        trained = (
            load_trained(self._workdir / handle.job_id, handle.digest)
            if job is None
            else job.trained
        )
        if trained is not None:
            return self._describe_success(handle, trained, job)
        if job is None or job.spec.digest != handle.digest:
            return JobState(
                "failed",
                "lost",
                error=f"no job {handle.job_id!r} runs in this process; submit it again",
            )
        return JobState(
            status=job.status,
            raw_status=job.status,
            progress=job.progress,
            points=tuple(job.points),
            error=job.error,
            note=job.note,
            fatal=job.fatal,
        )

    def cancel(self, handle: JobHandle) -> None:
        """Stop a queued or running job; it keeps its checkpoint."""
        job = self._jobs.get(handle.job_id)
        if job is not None:
            job.stop.set()

    def stop(self) -> None:
        """Stop all jobs; each ends after its current step."""
        for job in self._jobs.values():
            job.stop.set()

    def close(self) -> None:
        """Stop all jobs and wait for the workers' ones; the device's thread ends its own."""
        self.stop()
        self._lanes.close()

    def _describe_success(
        self, handle: JobHandle, trained: Trained, job: TrainingRun | None
    ) -> JobState:
        return JobState(
            status="succeeded",
            raw_status="succeeded",
            progress=1.0,
            model=ModelRef(handle.name, self._address, handle.job_id, trained.sha256),
            artifact_sha256=trained.sha256,
            points=trained.points,
            trained_tokens=trained.trained_tokens,
            checkpoints=trained.measured,
            base_kl=trained.base_kl,
            left_out=trained.left_out,
            note=None if job is None else job.note,
        )


def _make_handle(spec: FinetuneSpec) -> JobHandle:
    return JobHandle(job_id=spec.name, name=spec.name, digest=spec.digest)
