"""Trackio: a local database, a Space of the Hugging Face hub or a server of your own.

https://huggingface.co/docs/trackio
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import trackio

from society.runs.tracking.tracker import TrackedValue, TrackerTarget, group_by_step


class TrackioTracker:
    """Trackio finds a run by its name, so the name at Trackio has a part of its own."""

    def open(self, target: TrackerTarget) -> str:
        """Begin or resume the run whose name is its id."""
        self._project = target.project
        self._name = target.tracker_run_id or f"{target.name}-{uuid.uuid4().hex[:6]}"
        self._parameters = dict(target.parameters)
        self._join()
        return self._name

    def log(self, figures: Sequence[TrackedValue]) -> None:
        """Log the figures."""
        for _, step, values in group_by_step(figures):
            trackio.log(values, step=step)
        # Trackio sends in a thread of its own; only the end of its run waits for what is queued.
        trackio.finish()
        self._join()

    def close(self, *, finished: bool) -> None:
        """Send what is left."""
        trackio.finish()

    def _join(self) -> None:
        trackio.init(
            self._project,
            self._name,
            # Each time: joining a run replaces its settings.
            config=self._parameters,
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )


def create() -> TrackioTracker:
    """A tracker that is not open yet."""
    return TrackioTracker()
