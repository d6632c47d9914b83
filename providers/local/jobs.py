"""Fine-tuning jobs in this process: one after another, in the device's thread."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from pathlib import Path

from providers.artifact import Trained, load_trained
from providers.errors import ProviderError, RunError, StorageFailed
from providers.local import hardware
from providers.local.engine import Engine
from providers.local.lora_targets import describe_share
from providers.local.models import LocalModels
from providers.local.schedule import describe_small_reach
from providers.local.train import TrainingStopped, finetune
from providers.types import (
    FinetuneSpec,
    JobHandle,
    JobState,
    JobStatus,
    ModelRef,
    TrainingStep,
)

_MORE_MEMORY = (
    "free some of the device's memory, or use a smaller model, a lower finetune.lora_rank or "
    "[provider] max_batch_tokens, or [provider] quantization = 'nf4'"
)


class LocalJobs:
    """The jobs of one provider. A job's name is its id and the name of its folder in `workdir`.

    ```python
    jobs = LocalJobs(engine, models, workdir, "embedded:")
    handle = jobs.submit(spec)
    state = jobs.poll(handle)  # "queued", "running", "succeeded", …
    ```
    """

    def __init__(self, engine: Engine, models: LocalModels, workdir: Path, address: str) -> None:
        self._engine = engine
        self._models = models
        self._workdir = workdir
        self._address = address
        self._jobs: dict[str, _TrainingRun] = {}
        self._submitting = threading.Lock()

    def submit(self, spec: FinetuneSpec) -> JobHandle:
        """Queue a job, or adopt the same job if it is already queued, running or done."""
        # The lock makes find and start one step: two tasks that submit the same spec get one job.
        with self._submitting:
            if self.find(spec) is None:
                job = _TrainingRun(spec, self._workdir / spec.name)
                self._jobs[spec.name] = job
                self._engine.run(lambda: job.run(self._models))
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

    def _describe_success(
        self, handle: JobHandle, trained: Trained, job: _TrainingRun | None
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


class _TrainingRun:
    """One job of this process. The device's thread writes it while other threads read it."""

    def __init__(self, spec: FinetuneSpec, out: Path) -> None:
        self.spec = spec
        self.stop = threading.Event()
        self.progress = 0.0
        self.points: list[TrainingStep] = []
        self.note: str | None = None
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

    def run(self, models: LocalModels) -> None:
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
            if hardware.is_out_of_memory(error):
                self._fail(f"memory ran out: {error}; {_MORE_MEMORY}", fatal=True)
            else:
                self._fail(f"{type(error).__name__}: {error}", fatal=isinstance(error, OSError))
            raise
        else:
            self._status = "succeeded"

    def _fail(self, reason: str, *, fatal: bool) -> None:
        # The status comes last: a thread that sees "failed" must find the reason.
        self.error, self.fatal = reason, fatal
        self._status = "failed"

    def _train(self, models: LocalModels) -> None:
        start = self.spec.start.artifact
        folder = None if start is None else models.verify_folder(start)
        base = models.base
        with base.prepare_training(folder, self.spec.hyperparameters, self.spec.seed) as model:
            if self.spec.hyperparameters.method == "lora":
                share = describe_share(model)
                warning = "warning: " if share.level == "warning" else ""
                remedy = f"; {share.remedy}" if share.remedy else ""
                self._add_note(f"{warning}{share.text}{remedy}")
            examples = len(self.spec.examples)
            if fault := describe_small_reach(self.spec.hyperparameters, examples):
                self._add_note(f"warning: {fault}")
            self.trained = finetune(
                model,
                base.tokenizer,
                self.spec,
                self._out,
                device=base.device,
                on_point=self._add_point,
                stop=self.stop,
                bf16=base.trains_in_bf16,
                base=base.model,
                on_note=self._add_note,
            )

    def _add_note(self, text: str) -> None:
        self.note = text if self.note is None else f"{self.note}; {text}"

    def _add_point(self, point: TrainingStep, progress: float) -> None:
        self.points.append(point)
        self.progress = progress


def _make_handle(spec: FinetuneSpec) -> JobHandle:
    return JobHandle(job_id=spec.name, name=spec.name, digest=spec.digest)
