r"""Answers that are mathematics, as in MATH (Hendrycks et al. 2021, arXiv 2103.03874).

Nearly every pair is decided here, by structure and by value; what is left goes to the judge's
processes. docs/answers.md lists what counts as the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from evals.answers.comparison import same
from evals.answers.describing import describe
from evals.answers.reading import RULES, Reading, read_first
from evals.answers.shape import Words
from evals.answers.stated import LONGEST, Statement, bare, boxed, statements
from evals.answers.structure import structure
from evals.equivalence import Judge, judge

_MOST_WORDS = 5
_HELD = ("box", "tag", "key", "correction")
"""What holds an answer and nothing else."""

_MORE = re.compile(
    r"[<\[]|[\"']\s*:|\b(?:wait|no|actually|correction|oops|sorry|hmm+|hold|scratch|mistake|make|mean"
    r"|rather)\b",
    re.IGNORECASE,
)
"""A sign that behind the last box a tag, a key or a correction may stand, which counts for more."""

_MOST_ASKED = 40
"""Questions to the judge about one pair of answers; a pair that needs more is not the same."""


def create(options: Mapping[str, object]) -> Mathematical:
    """The kind; it has no options. Raises ValueError for any."""
    for name in options:
        raise ValueError(f"unknown option {name!r}: answers of the kind 'math' have none")
    return Mathematical()


@dataclass(frozen=True, slots=True)
class Mathematical:
    """Implements `evals.answers.base.AnswerKind` and `evals.grading.Prepared`."""

    name: str = "math"
    form: str = r"Put the final answer in \boxed{}."
    ask: Judge | None = None
    """Who decides what neither structure nor value does; the shared judge where None."""

    def read(self, response: str) -> str | None:
        """See `explain`."""
        return self.explain(response).answer

    def explain(self, response: str) -> Reading:
        """What the last box holds, or the last boxes with only "or" between them; without a box,
        the last answer stated in a few words.

        A box counts for more than a later phrase: "so our answer is correct" ends many a solution.
        """
        return read_first(response, _stated, lambda _: None)

    def gold(self, text: str) -> str:
        r"""The last \boxed{…} of a worked solution, or the bare answer.

        Raises ValueError where the text is empty or too long for an answer.
        """
        held = boxed(text)
        answer = _of_box(held[-1]) if held else _clean(bare(text))
        if not _says(answer) or len(answer) > LONGEST:
            raise ValueError(
                f"no answer in {text[:80]!r}: give the bare answer, at most {LONGEST} characters, "
                r"or a solution that states it in \boxed{}"
            )
        return answer

    def canonical(self, answer: str) -> str:
        """The structure in words."""
        return describe(structure(answer))

    def same(self, a: str, b: str) -> bool:
        """Whether two answers are the same by docs/answers.md. Reflexive, symmetric."""
        if a == b:
            return True
        asked = 0

        def ask(one: str, other: str) -> bool:
            nonlocal asked
            asked += 1
            return asked <= _MOST_ASKED and (self.ask or judge()).same(one, other)

        verdict = same(structure(a), structure(b), ask)
        return verdict and asked <= _MOST_ASKED

    def prepare(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Have the judge decide, in parallel, what `same` would ask it about these pairs."""
        wanted: dict[tuple[str, str], None] = {}

        def note(a: str, b: str) -> bool:
            wanted[a, b] = None
            return False

        for a, b in dict.fromkeys(pairs):
            before = len(wanted)
            if a != b:
                same(structure(a), structure(b), note)
            if len(wanted) - before > _MOST_ASKED:
                for pair in list(wanted)[before:]:
                    del wanted[pair]
        if wanted:
            (self.ask or judge()).prepare(wanted)


def _stated(part: str) -> Reading | None:
    found = boxed(part)
    if not found or _MORE.search(part, found[-1].end):
        found = statements(part)
    for statement in reversed(found):
        text = _of_box(statement) if statement.form in _HELD else ""
        if _says(text) and (statement.form == "box" or not _is_prose(text)):
            return Reading(text, RULES[statement.form])
    for statement in reversed(statements(part)):
        text = _clean(statement.text)
        if statement.form not in _HELD and _says(text) and not _is_prose(text):
            return Reading(text, RULES[statement.form])
    return None


def _of_box(statement: Statement) -> str:
    """The answer of a box, tag or key; of boxes in a row each value once."""
    if not statement.parts:
        return _clean(statement.text)
    distinct: list[str] = []
    for part in map(_clean, statement.parts):
        if not any(
            same(structure(part), structure(other), lambda a, b: False) for other in distinct
        ):
            distinct.append(part)
    return distinct[0] if len(distinct) == 1 else _clean(statement.text)


def _clean(text: str) -> str:
    """The text on one line, without what cannot be stored or shown."""
    text = text.encode("utf-8", "ignore").decode("utf-8")
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(text.split())


def _says(text: str) -> bool:
    return any(character.isalnum() or character in "∞∅" for character in text)


def _is_prose(text: str) -> bool:
    read = structure(text)
    return isinstance(read, Words) and len(read.text.split()) > _MOST_WORDS
