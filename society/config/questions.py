"""The sections about questions: [task], [train], [evaluation], [[zero_shot]] and [leakage]."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from society.config.values import Count, Section
from store.records import Decoding


class TaskSection(Section):
    """Which task, and its own options; the task checks them."""

    # Extra keys pass: tasks can be the user's own classes, and only a task knows its options.
    model_config = ConfigDict(extra="allow")
    name: str
    """Which questions are asked: `arithmetic`, `gsm8k`, `math`, `file`, or the task of a package.
    The task's own options stand beside it."""

    @property
    def options(self) -> dict[str, object]:
        return dict(self.model_extra or {})


class TrainedTaskSection(TaskSection):
    """The run's own task, with its own options beside these keys."""

    added = frozenset({"curriculum", "mastery"})
    curriculum: tuple[dict[str, Any], ...] = Field(default=(), strict=False)
    """Options of the task that change with the iteration: the first entry for iteration 1, and so
    on; the last one stays."""
    mastery: Annotated[float, Field(gt=0.0, le=1.0, strict=False)] | None = None
    """With a curriculum: the agreement of the agents in round 1 from which the next entry
    comes."""


class ZeroShotSection(TaskSection):
    """A task the societies are evaluated on and never trained on, with its own options."""

    label: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] | None = None
    """The task's name in the store and the report; by default `name`."""
    questions: Count | None = None
    """How many questions are asked; by default as many as in `evaluation`."""


class LeakageSection(Section):
    """The check that no evaluation question is trained on."""

    threshold: Annotated[float, Field(gt=0.0, le=1.0, strict=False)] = 0.95
    """How similar two questions must be to count as the same; 1 finds equal ones only."""


class TrainSection(Section):
    """The unlabelled questions of one iteration."""

    questions: Count = 500
    """How many are debated in each iteration. Each gives an agent at most one example for its
    generator; too few of them let accuracy fall again after some iterations."""
    fresh: bool = False
    """Draw new questions in each iteration, else the same ones. Set it if there are enough."""


class EvaluationSection(Section):
    """Held-out questions, debated by the untuned society and after every iteration."""

    questions: Count = 500
    """How many are asked. An accuracy from 100 questions is uncertain by 10 points, from 500 by
    4."""
    batch: bool = False
    """Send each round's calls as one batch if the provider has batches: slower and cheaper."""
    decodings: tuple[Decoding, ...] = Field(
        default=("sampled", "greedy"), min_length=1, strict=False
    )
    """How the held-out questions are answered: as in training, greedily (temperature 0), or both
    ways. One of them halves the time of evaluation."""
