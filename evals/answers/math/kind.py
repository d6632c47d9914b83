r"""Answers that are mathematics, as in MATH (Hendrycks et al. 2021, arXiv 2103.03874).

Nearly every pair is decided here, by structure and by value; what is left goes to the judge's
processes. docs/answers.md lists what counts as the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from evals.answers.base import AnswerReading
from evals.answers.math.comparison import same
from evals.answers.math.shapes import Words, describe_shape
from evals.answers.math.structure import read_structure
from evals.answers.response import RULES, find_answer
from evals.answers.statements import (
    LONGEST,
    Statement,
    find_boxed_statements,
    find_statements,
    strip_wrapping,
)
from evals.judge.pool import Judge, get_shared_judge

_MOST_WORDS = 5
_HELD = ("box", "tag", "key", "correction")
"""What holds an answer and nothing else."""

_MORE = re.compile(
    r"[<\[]|[\"']\s*:|\b(?:wait|no|actually|correction|oops|sorry|hmm+|hold|scratch|mistake|make|mean"
    r"|rather)\b",
    re.IGNORECASE,
)
"""Signs of a tag, a key or a correction behind the last box, any of which overrides the box."""

_MOST_ASKED = 40
"""Questions to the judge about one pair of answers; a pair that needs more is not the same."""


def create(options: Mapping[str, object]) -> MathKind:
    """The kind; it has no options. Raises ValueError for any."""
    for name in options:
        raise ValueError(f"unknown option {name!r}: answers of the kind 'math' have none")
    return MathKind()


@dataclass(frozen=True, slots=True)
class MathKind:
    """Implements `AnswerKind`; answers are compared as mathematics."""

    name: str = "math"
    form: str = r"Put the final answer in \boxed{}."
    ask: Judge | None = None
    """The judge for pairs that neither structure nor value decides; None: the shared judge."""

    def read(self, response: str) -> str | None:
        """See `explain`."""
        return self.explain(response).answer

    def explain(self, response: str) -> AnswerReading:
        """What the last box holds, or the last boxes with only "or" between them; without a box,
        the last answer stated in a few words.

        A box counts for more than a later phrase: "so our answer is correct" ends many a solution.
        """
        return find_answer(response, _find_stated_math, lambda _: None)

    def read_gold(self, text: str) -> str:
        r"""The last \boxed{…} of a worked solution, or the bare answer.

        Raises ValueError where the text is empty or too long for an answer.
        """
        held = find_boxed_statements(text)
        answer = _read_box(held[-1]) if held else _clean_text(strip_wrapping(text))
        if not _has_content(answer) or len(answer) > LONGEST:
            raise ValueError(
                f"no answer in {text[:80]!r}: give the bare answer, at most {LONGEST} characters, "
                r"or a solution that states it in \boxed{}"
            )
        return answer

    def canonicalize(self, answer: str) -> str:
        """The structure in words."""
        return describe_shape(read_structure(answer))

    def same(self, a: str, b: str) -> bool:
        """Whether two answers are the same by docs/answers.md. Reflexive, symmetric."""
        if a == b:
            return True
        asked = 0

        def ask(one: str, other: str) -> bool:
            nonlocal asked
            asked += 1
            # Counted in the callback, as the comparison asks about parts; past the limit, it also
            # undoes a yes.
            return asked <= _MOST_ASKED and (self.ask or get_shared_judge()).same(one, other)

        verdict = same(read_structure(a), read_structure(b), ask)
        return verdict and asked <= _MOST_ASKED


def _find_stated_math(part: str) -> AnswerReading | None:
    found = find_boxed_statements(part)
    # A tag, a key or a correction after the last box overrides it, so all statements come into
    # question.
    if not found or _MORE.search(part, found[-1].end):
        found = find_statements(part)
    for statement in reversed(found):
        text = _read_box(statement) if statement.form in _HELD else ""
        if _has_content(text) and (statement.form == "box" or not _is_prose(text)):
            return AnswerReading(text, RULES[statement.form])
    for statement in reversed(find_statements(part)):
        text = _clean_text(statement.text)
        if statement.form not in _HELD and _has_content(text) and not _is_prose(text):
            return AnswerReading(text, RULES[statement.form])
    return None


def _read_box(statement: Statement) -> str:
    """The answer of a box, tag or key; of boxes in a row each value once."""
    if not statement.parts:
        return _clean_text(statement.text)
    distinct: list[str] = []
    for part in map(_clean_text, statement.parts):
        # Without the judge: while a response is read, structure and value must be enough.
        if not any(
            same(read_structure(part), read_structure(other), lambda a, b: False)
            for other in distinct
        ):
            distinct.append(part)
    return distinct[0] if len(distinct) == 1 else _clean_text(statement.text)


def _clean_text(text: str) -> str:
    """The text on one line, without what cannot be stored or shown."""
    # Half a surrogate pair cannot be stored; one is left where an emoji is cut at the token limit.
    text = text.encode("utf-8", "ignore").decode("utf-8")
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(text.split())


def _has_content(text: str) -> bool:
    return any(character.isalnum() or character in "∞∅" for character in text)


def _is_prose(text: str) -> bool:
    read = read_structure(text)
    return isinstance(read, Words) and len(read.text.split()) > _MOST_WORDS
