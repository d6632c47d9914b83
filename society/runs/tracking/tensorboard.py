"""TensorBoard: event files in the run's folder, written by tensorboardX, which needs no TensorFlow.

https://tensorboardx.readthedocs.io
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

# It imports torch if it can, which takes seconds; in this process nothing else needs it.
sys.modules["torch"] = None  # type: ignore[assignment]
from tensorboardX import SummaryWriter  # noqa: E402

from society.runs.tracking.tracker import TrackedValue, TrackerTarget  # noqa: E402


class TensorBoardTracker:
    """Every start adds an event file to the folder; TensorBoard draws all of them as one run."""

    def open(self, target: TrackerTarget) -> str:
        """Open the folder of event files; its path is the run's id."""
        path = target.tracker_run_id or str(Path(target.folder) / "tensorboard")
        self._writer = SummaryWriter(path)
        if target.tracker_run_id is None:
            rows = "\n".join(f"| {key} | {value} |" for key, value in target.parameters.items())
            self._writer.add_text("settings", f"| key | value |\n|---|---|\n{rows}", 0)
        return path

    def log(self, figures: Sequence[TrackedValue]) -> None:
        """Write the figures to the event file."""
        for figure in figures:
            self._writer.add_scalar(figure.name, figure.value, figure.step)
        # What is confirmed has to be on disk, whatever ends the process.
        self._writer.flush()

    def close(self, *, finished: bool) -> None:
        """Close the event file."""
        self._writer.close()


def create() -> TensorBoardTracker:
    """A tracker that is not open yet."""
    return TensorBoardTracker()
