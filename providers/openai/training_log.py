"""What a job's events tell: losses, how far it is, what went wrong, the model's name."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from openai.types.fine_tuning import FineTuningJobEvent

from providers.base import TrainingPoint

_STEP = re.compile(r"\bstep (\d+)(?:\s*(?:/|of)\s*(\d+))?", re.IGNORECASE)
_LOSS = re.compile(r"\b(?:train(?:ing)?[ _])?loss\b\s*[=:]?\s*(\d+(?:\.\d+)?(?:e[+-]?\d+)?)", re.I)
MOST_STEPS = 2**31 - 1
_CREATED = re.compile(r"model created: (\S+)")


class TrainingLog:
    """The events of one job, taken in as they come; each counts once, whatever the order."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._steps: set[int] = set()
        self._last_step = 0
        self._total_steps = 0
        self._points: list[TrainingPoint] = []
        self._complaint: tuple[float, str] | None = None
        self.model: str | None = None

    @property
    def points(self) -> tuple[TrainingPoint, ...]:
        """One point per step, by step within what arrived together, later arrivals behind."""
        return tuple(self._points)

    @property
    def progress(self) -> float:
        """The share of the steps that is done; 0 where the server does not tell."""
        if not self._total_steps:
            return 0.0
        return min(1.0, self._last_step / self._total_steps)

    @property
    def complaint(self) -> str | None:
        """The latest event of level "error"."""
        return None if self._complaint is None else self._complaint[1]

    def knows(self, event: FineTuningJobEvent) -> bool:
        """Whether this event has been taken in."""
        return _key(event) in self._seen

    def take(self, events: Iterable[FineTuningJobEvent]) -> None:
        """Take in events; those known already change nothing."""
        fresh: list[TrainingPoint] = []
        for event in events:
            if self.knows(event):
                continue
            self._seen.add(_key(event))
            point = self._read(event)
            if point is not None and point.step not in self._steps:
                self._steps.add(point.step)
                fresh.append(point)
        self._points += sorted(fresh, key=lambda point: point.step)

    def _read(self, event: FineTuningJobEvent) -> TrainingPoint | None:
        message = event.message if isinstance(event.message, str) else ""
        if event.level == "error" and message:
            when = number(event.created_at) or 0.0
            if self._complaint is None or when >= self._complaint[0]:
                self._complaint = (when, message)
        created = _CREATED.search(message)
        if created is not None:
            self.model = created[1]
        data = event.data if isinstance(event.data, Mapping) else {}
        named = _STEP.search(message)
        step = number(data.get("step"), named and named[1])
        total = number(data.get("total_steps"), named and named[2])
        if total is not None and total <= MOST_STEPS:
            self._total_steps = max(self._total_steps, int(total))
        if step is None or not 0 <= step <= MOST_STEPS:
            return None
        self._last_step = max(self._last_step, int(step))
        told = _LOSS.search(message)
        loss = number(data.get("train_loss"), data.get("training_loss"), told and told[1])
        if loss is None:
            return None
        rate = number(data.get("learning_rate"))
        return TrainingPoint(int(step), loss, math.nan if rate is None else rate)


def _key(event: FineTuningJobEvent) -> str:
    return event.id or f"{event.created_at} {event.message}"


def number(*candidates: object) -> float | None:
    """The first candidate that is a finite number or the text of one."""
    for candidate in candidates:
        if isinstance(candidate, bool) or not isinstance(candidate, int | float | str):
            continue
        try:
            value = float(candidate)
        except (ValueError, OverflowError):
            continue
        if math.isfinite(value):
            return value
    return None
