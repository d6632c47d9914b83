"""How long the rest of a run will take, from the work that is planned and the pace so far."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from society.method.progress import (
    Event,
    PlannedWork,
    StageAdvanced,
    StageFinished,
    StageStarted,
    WorkKind,
)
from society.terminal.duration import format_duration

# What is said after less is noise: the first answers wait for the model to be loaded.
_LEAST_S, _LEAST_TURNS = 3.0, 5
_ORDER: tuple[WorkKind, ...] = ("debate", "finetune", "evaluate")
_KINDS: dict[str, WorkKind | None] = {
    "labels": "debate",
    "debate": "debate",
    "finetune": "finetune",
    "evaluate": "evaluate",
    "zero-shot": "evaluate",
    "curriculum": "evaluate",
    "datasets": None,
    "diversity": None,
}
_Pace = Literal["answers", "training"]


@dataclass(frozen=True, slots=True)
class TimeLeft:
    """Seconds that the rest will take, and the share (0..1) of the whole run that is done.

    `trainings` counts models still to be trained whose time nothing tells yet; `seconds` are
    without them.
    """

    seconds: float
    share: float
    trainings: int = 0

    def __str__(self) -> str:
        text = f"about {format_duration(self.seconds)} left"
        return f"{text} and {self.trainings} trainings" if self.trainings else text


class RunClock:
    """An observer that tells how long the rest of the run will take.

    Debates and evaluations share a pace, trainings have one of their own, both of this process.
    Until a model has been trained, its pace follows from that of answers where both are computed
    by the same machine.

        clock = RunClock(plan_work(experiment))
        clock(event)
        print(clock.estimate())  # about 12 min 05 s left
    """

    def __init__(
        self, plan: Sequence[PlannedWork], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._plan = sorted(plan, key=lambda each: (each.iteration, _ORDER.index(each.kind)))
        self._clock = clock
        self._stage: StageStarted | None = None
        self._kind: WorkKind | None = None
        self._begun = self._last = 0.0
        self._units: dict[tuple[int, WorkKind], float] = defaultdict(float)
        self._answered = 0.0
        self._seconds: dict[_Pace, float] = defaultdict(float)
        self._work: dict[_Pace, float] = defaultdict(float)

    def __call__(self, event: Event) -> None:
        if isinstance(event, StageStarted):
            self._stage, self._kind = event, find_kind(event.stage)
            self._begun, self._last = event.done, self._clock()
            self._count(event.done)
        elif self._stage is None or self._kind is None:
            return
        elif isinstance(event, StageAdvanced):
            self._advance(event.done)
        elif isinstance(event, StageFinished):
            self._advance(self._stage.total)
            self._stage = self._kind = None

    def estimate(self) -> TimeLeft | None:
        """How long the rest will take; None while too little is known."""
        if sum(self._seconds.values()) < _LEAST_S:
            return None
        if self._answered < _LEAST_TURNS and not self._work["training"]:
            return None
        done = left = 0.0
        trainings = 0
        for each in self._plan:
            share = self._find_share(each)
            pace = self._find_pace(each)
            if pace is None:
                trainings += round(each.units * (1 - share))
                continue
            done += each.work * share * pace
            left += each.work * (1 - share) * pace
        whole = done + left
        return TimeLeft(left, done / whole if whole else 0.0, trainings) if self._plan else None

    def _advance(self, done: float) -> None:
        assert self._stage is not None
        assert self._kind is not None
        now, fresh = self._clock(), done - self._begun
        self._count(fresh)
        pace: _Pace = "training" if self._kind == "finetune" else "answers"
        planned = self._find_plan()
        if pace == "answers":
            self._answered += fresh
        if planned is not None and planned.units:
            self._work[pace] += planned.work * fresh / planned.units
            self._seconds[pace] += now - self._last
        self._begun, self._last = done, now

    def _count(self, units: float) -> None:
        if self._stage is not None and self._kind is not None:
            self._units[self._stage.iteration, self._kind] += units

    def _find_plan(self) -> PlannedWork | None:
        assert self._stage is not None
        key = self._stage.iteration, self._kind
        return next((each for each in self._plan if (each.iteration, each.kind) == key), None)

    def _find_share(self, each: PlannedWork) -> float:
        """How much (0..1) of a planned piece is done; all of it once a later piece has begun."""
        place = each.iteration, _ORDER.index(each.kind)
        begun = [(iteration, _ORDER.index(kind)) for iteration, kind in self._units]
        if any(later > place for later in begun):
            return 1.0
        done = self._units.get((each.iteration, each.kind), 0.0)
        return min(1.0, done / each.units) if each.units else 1.0

    def _find_pace(self, each: PlannedWork) -> float | None:
        """Seconds for a unit of work; None if nothing tells."""
        own: _Pace = "training" if each.kind == "finetune" else "answers"
        if self._work[own] > 0:
            return self._seconds[own] / self._work[own]
        other: _Pace = "answers" if own == "training" else "training"
        if each.is_local and self._work[other] > 0:
            return self._seconds[other] / self._work[other]
        return None


def find_kind(stage: str) -> WorkKind | None:
    """The kind of a stage by its name, as `progress.StageName` says; None for small ones."""
    # From the right: the name may begin with that of an arm, which may be any word.
    for word in reversed(stage.split()):
        if word in _KINDS:
            return _KINDS[word]
    return None
