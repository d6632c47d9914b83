r"""Answers that are a word or a few, compared as text.

Compared after Unicode normalisation (NFKC), with white space, surrounding quotes and trailing
punctuation left out: ``“Paris.”`` is ``paris``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from evals.answers.base import AnswerReading, KindOptions, validate_options
from evals.answers.response import RULES, find_answer
from evals.answers.statements import LONGEST, find_statements, strip_wrapping

Case = Literal["ignore", "match"]

_TYPESET = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_QUOTES = ('""', "''", "“”", "‘’", "„“", "«»", "‹›", "「」")
_TRAILING = ".,;:!?。"


class TextOptions(KindOptions):
    """Whether upper and lower case differ."""

    case: Case = "ignore"


def create(options: Mapping[str, object]) -> TextKind:
    """The kind with the user's options. Raises ValueError that names option and value."""
    return TextKind(validate_options(TextOptions, "text", options))


@dataclass(frozen=True)
class TextKind:
    """Implements `AnswerKind`."""

    options: TextOptions = field(default_factory=TextOptions)
    name: str = "text"
    form: str = r"Put the final answer in \boxed{}."

    def read(self, response: str) -> str | None:
        """See `explain`."""
        return self.explain(response).answer

    def explain(self, response: str) -> AnswerReading:
        """The last answer stated, tidied, in its own case."""
        return find_answer(response, _find_stated_text, lambda _: None)

    def read_gold(self, text: str) -> str:
        """A bare answer, or the one that a solution of several lines or with a box states."""
        # A gold field may hold a worked solution. A single line without such marks is taken whole:
        # a search could cut an answer that contains the words of a statement.
        worked = "\n" in text.strip() or "\\boxed" in text or "####" in text
        if worked and (answer := self.read(text)):
            return answer
        return read_bare_gold(text)

    def canonicalize(self, answer: str) -> str:
        """The text, in one case where case does not count."""
        return normalize_text(answer, self.options.case)

    def same(self, a: str, b: str) -> bool:
        """Equal text, by the rule for case."""
        return self.canonicalize(a) == self.canonicalize(b)


def _find_stated_text(part: str) -> AnswerReading | None:
    for statement in reversed(find_statements(part)):
        if statement.form != "correction" and (answer := tidy_text(statement.text)):
            return AnswerReading(answer, RULES[statement.form])
    return None


def read_bare_gold(text: str) -> str:
    """A gold answer that is nothing else. Raises ValueError where it is blank or too long."""
    answer = tidy_text(text) if len(text) <= LONGEST else ""
    if not answer:
        raise ValueError(f"no gold answer in {text[:80]!r}; give 1 to {LONGEST} characters of text")
    return answer


def tidy_text(text: str) -> str:
    """Text without typesetting, quotes around it, trailing punctuation and needless space."""
    text = " ".join(unicodedata.normalize("NFKC", text).split())
    # Wrappings are nested, such as quotes in a box in bold; the bound keeps a text of many layers
    # from taking long.
    for _ in range(8):
        stripped = strip_wrapping(_TYPESET.sub(r"\1", text))
        if len(stripped) > 2 and stripped[0] + stripped[-1] in _QUOTES:
            stripped = stripped[1:-1].strip()
        stripped = stripped.rstrip(_TRAILING).rstrip() or stripped
        if stripped == text:
            break
        text = stripped
    return text


def normalize_text(text: str, case: Case) -> str:
    """What two equal texts have in common; a text longer than any answer is as it is."""
    if len(text) > LONGEST:
        return text
    text = tidy_text(text)
    # Case folding can leave text that NFKC changes again, so it is tidied once more.
    return tidy_text(text.casefold()) if case == "ignore" else text
