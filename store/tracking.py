"""Records of what trackers, such as MLflow, have of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from store.records import utc_now


@dataclass(frozen=True, slots=True)
class TrackerRun:
    """The run at a tracker that this run's figures go to, at every start.

    `tracker` is its name as in the experiment file, `tracker_run_id` the tracker's own id.
    """

    tracker: str
    tracker_run_id: str
    created_at: datetime = field(default_factory=utc_now)


@dataclass(frozen=True, slots=True)
class TrackedFigure:
    """One value that a tracker has confirmed, so that no later start sends it again.

    `step` is what the figure is drawn over: an iteration, or for losses an optimizer step.
    """

    tracker: str
    figure: str
    step: int
    value: float
    created_at: datetime = field(default_factory=utc_now)
