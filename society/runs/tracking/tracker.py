"""What every tracker does, whatever its package; each file beside this one has one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Literal, Protocol, cast

Axis = Literal["iteration", "training_step"]


@dataclass(frozen=True, slots=True)
class TrackedValue:
    """One value of one curve. `step` counts what `axis` names; shares are 0 to 1.

    TrackedValue("multiagent/eval/sampled/consensus", 2, 0.91)
    """

    name: str
    step: int
    value: float
    axis: Axis = "iteration"


@dataclass(frozen=True, slots=True)
class TrackerTarget:
    """Where a run's figures go.

    `tracker_run_id` is what an earlier start got from `Tracker.open`, None at the first; `sent`
    counts the figures that it has already. `folder` is the run's own; `parameters` are the settings
    of the experiment by their dotted names.
    """

    name: str
    project: str
    folder: str
    parameters: Mapping[str, str]
    tracker_run_id: str | None = None
    sent: int = 0


class Tracker(Protocol):
    """One tracker, in a process of its own. Whatever it raises ends that process only."""

    def open(self, target: TrackerTarget) -> str:
        """Begin a run at the tracker, or go on with that of `target`; returns its id."""

    def log(self, figures: Sequence[TrackedValue]) -> None:
        """Log figures; returns once the tracker has them, or has them on disk."""

    def close(self, *, finished: bool) -> None:
        """End; `finished` says whether the run has come to its end."""


def load_tracker(name: str) -> Tracker:
    """The tracker of this name; its package is imported now."""
    # Not at the top: each process needs one package, and the others may not be installed.
    module = import_module(f"society.runs.tracking.{name}")
    return cast(Tracker, module.create())


def group_by_step(figures: Sequence[TrackedValue]) -> Iterator[tuple[Axis, int, dict[str, float]]]:
    """The figures that share an axis and a step, in the order of steps on each axis."""
    groups: dict[tuple[Axis, int], dict[str, float]] = {}
    for figure in figures:
        groups.setdefault((figure.axis, figure.step), {})[figure.name] = figure.value
    for (axis, step), values in sorted(groups.items()):
        yield axis, step, values
