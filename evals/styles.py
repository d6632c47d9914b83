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

from evals.intervals import wilson
from evals.metrics import ARM, Decoding
from evals.tasks.base import Task
from store.ledger import Store

OTHER = "other"

_ANSWERS = """
    select t.response, v.correct
    from turns t join verdicts v using (turn_id)
    where t.kind = 'answer' and t.round = 1 and v.correct is not null
      and t.arm = ? and t.split = 'eval' and t.decoding = ? and t.iteration = ?
      and t.question_id in (select question_id from questions where not zero_shot)
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


def use(
    store: Store, task: Task, decoding: Decoding, iteration: int, arm: str = ARM
) -> dict[str, StyleUse]:
    """The styles of the agents' first answers to held-out questions; empty where none is known."""
    marks: defaultdict[str, list[bool]] = defaultdict(list)
    for response, correct in store.rows(_ANSWERS, [arm, decoding, iteration]):
        marks[task.style(str(response)) or OTHER].append(bool(correct))
    if set(marks) <= {OTHER}:
        return {}
    total = sum(map(len, marks.values()))
    return {
        style: StyleUse(style, len(found), sum(found), len(found) / total)
        for style, found in sorted(marks.items())
    }


def change(before: Mapping[str, StyleUse], after: Mapping[str, StyleUse]) -> StyleChange | None:
    """What lies between two tables of `use`; None where either is empty."""
    if not before or not after:
        return None
    styles = sorted(before.keys() | after.keys(), key=lambda style: (style == OTHER, style))
    first = tuple(before.get(style, StyleUse(style, 0, 0, 0.0)) for style in styles)
    second = tuple(after.get(style, StyleUse(style, 0, 0, 0.0)) for style in styles)
    return StyleChange(first, second, *_parts(first, second))


def _parts(first: Sequence[StyleUse], second: Sequence[StyleUse]) -> tuple[float, float]:
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
