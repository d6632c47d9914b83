"""Grading many responses at once: the slow comparisons are decided in parallel first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from evals.answers.base import AnswerKind


@dataclass(frozen=True, slots=True)
class Grade:
    """What a response answers (None: nothing that can be read) and whether that is right."""

    answer: str | None
    correct: bool


@runtime_checkable
class Prepared(Protocol):
    """A kind of answer whose `same` may be slow, and that can get many pairs ready in parallel."""

    def prepare(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Make the later `same(a, b)` of every pair quick."""


def grade(kind: AnswerKind, items: Iterable[tuple[str, str]]) -> list[Grade]:
    """The grade of every (response, gold answer), in their order.

    A gold answer is as `kind.gold` gives it. Each distinct response is read once and each distinct
    pair compared once.
    """
    answers: dict[str, str | None] = {}
    read: list[tuple[str | None, str]] = []
    for response, gold in items:
        if response not in answers:
            answers[response] = kind.read(response)
        read.append((answers[response], gold))
    pairs = list(dict.fromkeys((answer, gold) for answer, gold in read if answer is not None))
    if isinstance(kind, Prepared):
        kind.prepare(pairs)
    same = {pair: kind.same(*pair) for pair in pairs}
    return [Grade(answer, answer is not None and same[answer, gold]) for answer, gold in read]
