r"""Answers that are mathematics, as in MATH (Hendrycks et al. 2021, arXiv 2103.03874).

Nearly every pair is decided here, by structure and by value; what is left goes to the judge's
processes. docs/answers.md lists what counts as the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from evals.answers.boxes import boxes
from evals.answers.comparison import same
from evals.answers.shape import Words
from evals.answers.stated import LONGEST, bare, statements
from evals.answers.structure import structure
from evals.equivalence import Judge, judge

_MOST_WORDS = 5
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
        """What the last box holds; without a box, the last answer stated in a few words.

        A box counts for more than a later phrase: "so our answer is correct" ends many a solution.
        """
        for box in reversed(boxes(response).innermost):
            if box.close - box.inside <= LONGEST:
                text = _clean(bare(response[box.inside : box.close]))
                if _says(text):
                    return text
        for statement in reversed(statements(response)):
            text = _clean(statement.text)
            if statement.form != "box" and _says(text) and not _is_prose(text):
                return text
        return None

    def gold(self, text: str) -> str:
        r"""The last \boxed{…} of a worked solution, or the bare answer.

        Raises ValueError where the text is empty or too long for an answer.
        """
        boxed = boxes(text).innermost
        answer = _clean(bare(text[boxed[-1].inside : boxed[-1].close] if boxed else text))
        if not _says(answer) or len(answer) > LONGEST:
            raise ValueError(
                f"no answer in {text[:80]!r}: give the bare answer, at most {LONGEST} characters, "
                r"or a solution that states it in \boxed{}"
            )
        return answer

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
