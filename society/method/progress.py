"""What a run reports while it runs. The loop emits events, the command line draws them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

StageName = str
"""labels, debate, datasets, finetune, "diversity DECODING" or "evaluate DECODING"; on the questions
of another task "zero-shot LABEL DECODING", on those of a curriculum's stage "curriculum LABEL
DECODING". In a run of several arms the arm's name stands before it."""


@dataclass(frozen=True, slots=True)
class StageStarted:
    """`total` units of work, `done` of which an earlier start of this run already finished."""

    iteration: int
    stage: StageName
    unit: str
    total: int
    done: int


@dataclass(frozen=True, slots=True)
class StageAdvanced:
    """`done` units so far; `tokens` new completion tokens since the stage started."""

    done: float
    tokens: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class StageFinished:
    """The stage that was started last is complete. `seconds` is wall time of this process."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Note:
    """Something the user should know; it is also kept in the run's log."""

    text: str


IterationPart = Literal["labels", "training", "evaluation"]


@dataclass(frozen=True, slots=True)
class PartFinished:
    """The labels, the models or the evaluation of one arm in one iteration are stored for good.

    A resumed run reports again what an earlier start had finished.
    """

    iteration: int
    arm: str
    part: IterationPart


WorkKind = Literal["debate", "finetune", "evaluate"]


@dataclass(frozen=True, slots=True)
class PlannedWork:
    """What one iteration will do of one kind, guessed before the run.

    `units` are turns, or models to train. `work` compares pieces of one pace with each other: it is
    in tokens of a prompt. `is_local` says that a free model of this machine does it, so that the
    work of answers and of training can be compared too.
    """

    iteration: int
    kind: WorkKind
    units: float
    work: float
    is_local: bool


Event = StageStarted | StageAdvanced | StageFinished | PartFinished | Note
Observer = Callable[[Event], None]


class ProgressReporter:
    """Sends a run's events to its observer.

    `describe_spending` gives what the run has spent so far, as a short text.

        progress = ProgressReporter(print)
        with progress.stage(1, "debate", "turns", total=300):
            progress.advance(1)
    """

    def __init__(
        self, observer: Observer, describe_spending: Callable[[], str] = lambda: ""
    ) -> None:
        self._observer = observer
        self._describe_spending = describe_spending
        self._noted: set[str] = set()

    @contextmanager
    def stage(
        self, iteration: int, name: StageName, unit: str, total: int, done: int = 0
    ) -> Iterator[None]:
        """Report that a stage starts, and that it is finished unless it raises."""
        # No try and finally: a stage that raises is not finished, and the next start resumes it.
        started = time.monotonic()
        self._observer(StageStarted(iteration, name, unit, total, done))
        yield
        self._observer(StageFinished(time.monotonic() - started))

    def advance(self, done: float, tokens: int = 0, detail: str = "") -> None:
        """Report how far the current stage is, and what the run has spent."""
        parts = (detail, self._describe_spending())
        detail = " · ".join(part for part in parts if part)
        self._observer(StageAdvanced(done, tokens, detail))

    def finish_part(self, iteration: int, arm: str, part: IterationPart) -> None:
        """Report that a part of an iteration is stored for good."""
        self._observer(PartFinished(iteration, arm, part))

    def note(self, text: str | None) -> None:
        """Tell the user something; None is nothing."""
        if text is not None:
            self._observer(Note(text))

    def note_once(self, text: str | None) -> None:
        """Tell the user something, unless the same text was noted before in this process."""
        if text is not None and text not in self._noted:
            self._noted.add(text)
            self.note(text)

    def note_all(self, texts: Iterable[str]) -> None:
        """Tell the user several things, in order."""
        for text in texts:
            self.note(text)
