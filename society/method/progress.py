"""What a run tells whoever watches it. The loop emits, the command line draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

StageName = str
"""One of debate, datasets, finetune, "diversity DECODING", "evaluate DECODING", and where the
questions are those of another task "zero-shot LABEL DECODING", of a curriculum's stage
"curriculum LABEL DECODING"; where a run has several arms, after the arm's name."""


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


Event = StageStarted | StageAdvanced | StageFinished | Note
Observer = Callable[[Event], None]
