"""Fine-tuning jobs in this process: one after another in the device's thread."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from pathlib import Path

from providers.artifact import Trained, finished
from providers.errors import ProviderError, RunError, StorageFailed
from providers.local import memory
from providers.local.engine import Engine
from providers.local.models import Models
from providers.local.train import TrainingStopped, finetune
from providers.types import (
    FinetuneSpec,
    JobHandle,
    JobState,
    JobStatus,
    ModelRef,
    TrainingPoint,
)

_MORE_MEMORY = (
    "free some of the device's memory, or use a smaller model, a lower finetune.lora_rank or "
    "[provider] max_batch_tokens"
)


class Jobs:
    """A job's name is its id; its artifact is the folder of that name under `workdir`."""

    def __init__(self, engine: Engine, models: Models, workdir: Path, address: str) -> None:
        self._engine = engine
        self._models = models
        self._workdir = workdir
        self._address = address
        self._jobs: dict[str, _Job] = {}
        self._submitting = threading.Lock()

    def submit(self, spec: FinetuneSpec) -> JobHandle:
        """Queue a job, or adopt the same one that is queued, running or done."""
        with self._submitting:
            if self.find(spec) is None:
                job = _Job(spec, self._workdir / spec.name)
                self._jobs[spec.name] = job
                self._engine.run(lambda: job.run(self._models))
        return _handle(spec)

    def find(self, spec: FinetuneSpec) -> JobHandle | None:
        """The job if it is queued, running or done; one that was interrupted is to be submitted
        again.
        """
        job = self._jobs.get(spec.name)
        if (
            job is not None
            and job.spec.digest == spec.digest
            and job.status in ("queued", "running")
        ):
            return _handle(spec)
        if finished(self._workdir / spec.name, spec.digest) is not None:
            return _handle(spec)
        return None

    def poll(self, handle: JobHandle) -> JobState:
        """The job's state; an artifact on disk counts whatever process made it."""
        job = self._jobs.get(handle.job_id)
        trained = (
            finished(self._workdir / handle.job_id, handle.digest) if job is None else job.trained
        )
        if trained is not None:
            return self._succeeded(handle, trained)
        if job is None or job.spec.digest != handle.digest:
            return JobState(
                "failed", "lost", error=f"no job {handle.job_id!r} runs here; submit it again"
            )
        return JobState(
            status=job.status,
            raw_status=job.status,
            progress=job.progress,
            points=tuple(job.points),
            error=job.error,
            fatal=job.fatal,
        )

    def cancel(self, handle: JobHandle) -> None:
        """Stop a job that is queued or running; it keeps its checkpoint."""
        job = self._jobs.get(handle.job_id)
        if job is not None:
            job.stop.set()

    def stop(self) -> None:
        """Stop all jobs."""
        for job in self._jobs.values():
            job.stop.set()

    def _succeeded(self, handle: JobHandle, trained: Trained) -> JobState:
        return JobState(
            status="succeeded",
            raw_status="succeeded",
            progress=1.0,
            model=ModelRef(handle.name, self._address, handle.job_id, trained.sha256),
            artifact_sha256=trained.sha256,
            points=trained.points,
            trained_tokens=trained.trained_tokens,
        )


class _Job:
    def __init__(self, spec: FinetuneSpec, out: Path) -> None:
        self.spec = spec
        self.stop = threading.Event()
        self.progress = 0.0
        self.points: list[TrainingPoint] = []
        self.error: str | None = None
        self.fatal = False
        self.trained: Trained | None = None
        self._status: JobStatus = "queued"
        self._out = out

    @property
    def status(self) -> JobStatus:
        if self.stop.is_set() and self._status == "queued":
            return "cancelled"
        return self._status

    def run(self, models: Models) -> None:
        if self.stop.is_set():
            self._status = "cancelled"
            return
        self._status = "running"
        try:
            self._train(models)
        except (TrainingStopped, CancelledError):
            self._status = "cancelled"
        except ProviderError as error:
            self._fail(str(error), fatal=isinstance(error, RunError | StorageFailed))
        except Exception as error:
            if memory.ran_out(error):
                self._fail(f"memory ran out: {error}; {_MORE_MEMORY}", fatal=True)
            else:
                self._fail(f"{type(error).__name__}: {error}", fatal=isinstance(error, OSError))
            raise
        else:
            self._status = "succeeded"

    def _fail(self, reason: str, *, fatal: bool) -> None:
        # Whoever asks must not see the status before the reason.
        self.error, self.fatal = reason, fatal
        self._status = "failed"

    def _train(self, models: Models) -> None:
        start = self.spec.start.artifact
        folder = None if start is None else models.folder(start)
        base = models.base
        with base.trainable(folder, self.spec.hyperparameters, self.spec.seed) as model:
            self.trained = finetune(
                model,
                base.tokenizer,
                self.spec,
                self._out,
                device=base.device,
                on_point=self._note,
                stop=self.stop,
            )

    def _note(self, point: TrainingPoint, progress: float) -> None:
        self.points.append(point)
        self.progress = progress


def _handle(spec: FinetuneSpec) -> JobHandle:
    return JobHandle(job_id=spec.name, name=spec.name, digest=spec.digest)
