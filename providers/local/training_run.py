"""One fine-tuning job on this machine: what is known of it, and how it is carried out."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path

from torch import nn

from providers.artifact import Trained, load_trained
from providers.errors import ProviderError, RunError, StorageFailed
from providers.local import hardware
from providers.local.backbone import Backbone
from providers.local.lora_targets import describe_share
from providers.local.models import LocalModels
from providers.local.pieces import Steps, complete
from providers.local.schedule import count_epoch_steps, describe_small_reach
from providers.local.shared_adapter import CannotShare, TooLargeToShare
from providers.local.shared_base import SharedBase
from providers.local.train import TrainingStopped, train_in_steps
from providers.types import Finding, FinetuneSpec, JobStatus, TrainingStep

_MORE_MEMORY = (
    "free some of the device's memory, or use a smaller model, a lower finetune.lora_rank or "
    "[provider] max_batch_tokens, or [provider] quantization = 'nf4'"
)
_TIMED_STEPS = 8

OnNews = Callable[["TrainingStep | str", float], None]


class TrainingRun:
    """One job, in this process or a worker's. One thread writes it while others read it.

    `on_news` gets each step and each note, with the progress (0 to 1), as soon as they are known;
    `on_end` the job itself once it has ended.

    ```python
    run = TrainingRun(spec, workdir / spec.name)
    run.train(models)
    print(run.status, run.trained or run.error)
    ```
    """

    def __init__(
        self,
        spec: FinetuneSpec,
        out: Path,
        on_news: OnNews | None = None,
        on_end: Callable[[TrainingRun], None] | None = None,
    ) -> None:
        self.spec = spec
        self.stop = threading.Event()
        self.progress = 0.0
        self.points: list[TrainingStep] = []
        self.error: str | None = None
        self.fatal = False
        self.trained: Trained | None = None
        # How many workers have broken off in it.
        self.deaths = 0
        self.checkpoint_seconds = 300.0
        # Whether it has to be trained without others beside it.
        self.is_alone = False
        self._notes: dict[str, None] = {}
        self._status: JobStatus = "queued"
        self._out = out
        self._on_news, self._on_end = on_news, on_end
        # When the last steps ended. A resumed job tells its earlier steps all at once.
        self._ends: deque[float] = deque(maxlen=_TIMED_STEPS)

    @property
    def status(self) -> JobStatus:
        if self.stop.is_set() and self._status == "queued":
            return "cancelled"
        return self._status

    @property
    def done(self) -> bool:
        return self._status in ("succeeded", "failed", "cancelled")

    @property
    def note(self) -> str | None:
        return "; ".join(self._notes) or None

    @property
    def steps(self) -> int:
        """How many optimizer steps the job has, without regard to examples that are too long."""
        how = self.spec.hyperparameters
        return how.epochs * count_epoch_steps(len(self.spec.examples), how.batch_size)

    @property
    def step_seconds(self) -> float | None:
        """How long the last few steps took, each; None before the second."""
        ends = list(self._ends)
        return None if len(ends) < 2 else (ends[-1] - ends[0]) / (len(ends) - 1)

    def train(self, models: LocalModels) -> None:
        """Carry the job out on `models`; an error that is not the provider's own is raised too."""
        complete(self.train_in_steps(models))

    def train_in_steps(self, models: LocalModels, shared: SharedBase | None = None) -> Steps[None]:
        """What `train` does, as steps; with `shared`, for passes that are other jobs' too.

        If the job turns out to need passes of its own, it waits again, with `is_alone`.
        """
        if not self.begin():
            return
        try:
            trained = yield from self._train(models, shared)
        except (TrainingStopped, CancelledError):
            self.end("cancelled")
        except (CannotShare, TooLargeToShare) as reason:
            self.is_alone = True
            self.add_note(f"it is trained in passes of its own: {reason}")
            self.requeue()
        except ProviderError as error:
            self.fail(str(error), fatal=isinstance(error, RunError | StorageFailed))
        except Exception as error:
            if hardware.is_out_of_memory(error):
                self.fail(f"memory ran out: {error}; {_MORE_MEMORY}", fatal=True)
            else:
                self.fail(f"{type(error).__name__}: {error}", fatal=isinstance(error, OSError))
            raise
        else:
            self.trained = trained
            self.end("succeeded")

    def begin(self) -> bool:
        """Whether the job is to be carried out now: not if it was stopped before."""
        if self.stop.is_set():
            self.end("cancelled")
            return False
        self._status = "running"
        return True

    def add_note(self, text: str) -> None:
        # A job that is repeated notes the same again.
        if text not in self._notes:
            self._notes[text] = None
            self._tell(text)

    def add_point(self, point: TrainingStep, progress: float) -> None:
        """Add a step; one that is known already, of a job that is repeated, says nothing new."""
        if point.step <= len(self.points):
            return
        self.points.append(point)
        self.progress = max(self.progress, progress)
        self._ends.append(time.monotonic())
        self._tell(point)

    def adopt(self) -> None:
        """End as "succeeded" with the artifact that another process has made."""
        self.trained = load_trained(self._out, self.spec.digest)
        if self.trained is None:
            self.fail(f"its training ended, and its weights are not in {str(self._out)!r}")
        else:
            self.end("succeeded")

    def requeue(self) -> None:
        """Let the job wait again: nothing of it is done, or all that is lies on the disk."""
        self._status = "queued"

    def fail(self, reason: str, *, fatal: bool = True) -> None:
        self.error, self.fatal = reason, fatal
        self.end("failed")

    def end(self, status: JobStatus) -> None:
        # The status comes last: a thread that sees "failed" must find the reason.
        self._status = status
        if self._on_end is not None:
            self._on_end(self)

    def _train(self, models: LocalModels, shared: SharedBase | None) -> Steps[Trained]:
        start = self.spec.start.artifact
        folder = None if start is None else models.verify_folder(start)
        base, how = models.base, self.spec.hyperparameters
        if shared is not None:
            adapter = shared.add(folder, how, self.spec.seed)
            self._note_reach(adapter.share)
            return (yield from self._fit(base, adapter))
        with base.prepare_training(folder, how, self.spec.seed) as model:
            self._note_reach(describe_share(model) if how.method == "lora" else None)
            return (yield from self._fit(base, model))

    def _note_reach(self, share: Finding | None) -> None:
        """Note how much is trained, and whether the steps can move it."""
        if share is not None:
            warning = "warning: " if share.level == "warning" else ""
            remedy = f"; {share.remedy}" if share.remedy else ""
            self.add_note(f"{warning}{share.text}{remedy}")
        if fault := describe_small_reach(self.spec.hyperparameters, len(self.spec.examples)):
            self.add_note(f"warning: {fault}")

    def _fit(self, base: Backbone, model: nn.Module) -> Steps[Trained]:
        return train_in_steps(
            model,
            base.tokenizer,
            self.spec,
            self._out,
            device=base.device,
            on_point=self.add_point,
            stop=self.stop,
            checkpoint_seconds=self.checkpoint_seconds,
            bf16=base.trains_in_bf16,
            base=base.model,
            on_note=self.add_note,
        )

    def _tell(self, news: TrainingStep | str) -> None:
        if self._on_news is not None:
            self._on_news(news, self.progress)


def estimate_seconds(run: TrainingRun, step_seconds: float) -> float:
    """How long the rest of a job takes if a step takes so many seconds.

    ```python
    estimate_seconds(run, 0.5)  # 40.0 with 80 steps left
    ```
    """
    return math.ceil((1 - run.progress) * run.steps) * step_seconds
