"""How the agents reason, where the task can tell, and whether that or skill has changed.

An accuracy is the sum over styles of share x accuracy within the style. Its change falls into two
parts (Kitagawa 1955, J. Am. Stat. Assoc. 50): `choice`, from styles being used more or less
often, at their mean accuracy, and `skill`, from the accuracy within the styles, at their mean
share. Which questions a style is used on may change too; that shows up as skill.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from evals.arm_kinds import MULTIAGENT
from evals.intervals import wilson
from evals.tasks.base import Task
from store.ledger import Store
from store.records import Decoding

OTHER = "other"
Answers = Literal["first", "last"]
"""Those of round 1, by the generators, or those of the last round, by the critics."""

_ANSWERS = """
    with answers as (
        select t.question_id, t.round, t.response, v.correct
        from turns t join verdicts v using (turn_id)
        where t.kind = 'answer' and t.arm = $arm and t.split = 'eval' and t.decoding = $decoding
          and t.iteration = $iteration
          and t.question_id in (select question_id from questions where not is_extra)
    )
    select response, correct from answers
    where round = if($last, (select max(round) from answers), 1) and correct is not null
    order by question_id
"""


@dataclass(frozen=True, slots=True)
class StyleUse:
    """`answers` of all answers open in this style, `right` of them are right. The interval of the
    accuracy takes the answers as independent; it is (0, 1) where there are none."""

    style: str
    answers: int
    right: int
    share: float

    @property
    def accuracy(self) -> float | None:
        return self.right / self.answers if self.answers else None

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.right / self.answers, self.answers) if self.answers else (0.0, 1.0)


@dataclass(frozen=True, slots=True)
class StyleChange:
    """The same styles before and after. `choice` and `skill` add up to `difference`."""

    before: tuple[StyleUse, ...]
    after: tuple[StyleUse, ...]
    choice: float
    skill: float

    @property
    def difference(self) -> float:
        return self.choice + self.skill


def measure_styles(
    store: Store,
    task: Task,
    decoding: Decoding,
    iteration: int,
    arm: str = MULTIAGENT,
    answers: Answers = "first",
) -> dict[str, StyleUse]:
    """The styles of one society's answers to held-out questions with known gold; empty where the
    task recognizes no style in any of them."""
    which = {"arm": arm, "decoding": decoding, "iteration": iteration, "last": answers == "last"}
    marks: defaultdict[str, list[bool]] = defaultdict(list)
    for response, correct in store.rows(_ANSWERS, which):
        marks[task.style(str(response)) or OTHER].append(correct)
    return _tabulate(marks)


def _tabulate(marks: Mapping[str, Sequence[bool]]) -> dict[str, StyleUse]:
    # Where every answer is "other", the task knows no styles.
    if set(marks) <= {OTHER}:
        return {}
    total = sum(map(len, marks.values()))
    return {
        style: StyleUse(style, len(right), sum(right), len(right) / total)
        for style, right in sorted(marks.items())
    }


def compare_styles(
    before: Mapping[str, StyleUse], after: Mapping[str, StyleUse]
) -> StyleChange | None:
    """What lies between two tables of `measure_styles`; None where either is empty."""
    if not before or not after:
        return None
    # "other" comes last, as it is what remains.
    styles = sorted(before.keys() | after.keys(), key=lambda style: (style == OTHER, style))
    first = tuple(before.get(style, StyleUse(style, 0, 0, 0.0)) for style in styles)
    second = tuple(after.get(style, StyleUse(style, 0, 0, 0.0)) for style in styles)
    return StyleChange(first, second, *_decompose(first, second))


def _decompose(first: Sequence[StyleUse], second: Sequence[StyleUse]) -> tuple[float, float]:
    choice = skill = 0.0
    for old, new in zip(first, second, strict=True):
        # A style used on one side only has no accuracy on the other: all of it is choice.
        known = [use.accuracy for use in (old, new) if use.accuracy is not None]
        if not known:
            continue
        old_accuracy = old.accuracy if old.accuracy is not None else known[0]
        new_accuracy = new.accuracy if new.accuracy is not None else known[0]
        choice += (new.share - old.share) * (old_accuracy + new_accuracy) / 2
        skill += (new_accuracy - old_accuracy) * (old.share + new.share) / 2
    return choice, skill
