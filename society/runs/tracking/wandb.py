"""Weights & Biases, online or offline as WANDB_MODE says.

https://docs.wandb.ai/models/track
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence

import wandb

from society.runs.tracking.tracker import TrackedValue, TrackerTarget, group_by_step


class WandbTracker:
    """Figures are drawn over `iteration`, losses over `training_step`."""

    def open(self, target: TrackerTarget) -> str:
        """Begin or resume the run with the id that the earlier starts had."""
        run_id = target.tracker_run_id or uuid.uuid4().hex[:12]
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", target.project),
            name=target.name,
            id=run_id,
            # Offline there is nothing to resume from: `wandb sync` joins the parts by their id.
            resume=None if os.environ.get("WANDB_MODE") == "offline" else "allow",
            dir=os.environ.get("WANDB_DIR", target.folder),
            config=dict(target.parameters),
            # Nothing of this machine is sent that the run itself does not log.
            settings=wandb.Settings(
                console="off",
                disable_git=True,
                disable_code=True,
                x_disable_stats=True,
                silent=True,
            ),
        )
        self._run.define_metric("iteration")
        self._run.define_metric("training_step")
        self._run.define_metric("*", step_metric="iteration")
        # W&B drops what comes with a smaller step than before, also in a later start.
        self._step = target.sent
        return run_id

    def log(self, figures: Sequence[TrackedValue]) -> None:
        """Log the figures; W&B's own process sends them, or keeps them in its file."""
        for axis, step, values in group_by_step(figures):
            if axis == "training_step":
                for name in values:
                    self._run.define_metric(name, step_metric="training_step")
            self._run.log({axis: step, **values}, step=self._step)
            self._step += len(values)

    def close(self, *, finished: bool) -> None:
        """Wait until everything is sent."""
        self._run.finish(exit_code=0 if finished else 1)


def create() -> WandbTracker:
    """A tracker that is not open yet."""
    return WandbTracker()
