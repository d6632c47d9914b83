"""Answers found by the user's own regular expression (syntax of the package `regex`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import Field

from evals.answers.base import AnswerReading, KindOptions, validate_options
from evals.answers.response import UNFINISHED
from evals.answers.statements import LONGEST
from evals.answers.text import Case, normalize_text, read_bare_gold, tidy_text
from evals.answers.thoughts import strip_thoughts

if TYPE_CHECKING:
    import regex

SECONDS = 2.0
"""Of the process's time, all threads together; a search that needs more finds nothing."""


class RegexOptions(KindOptions):
    """`case` holds for the search and for the comparison."""

    pattern: str = Field(min_length=1)
    case: Case = "ignore"


def create(options: Mapping[str, object]) -> RegexKind:
    """The kind with the user's options. Raises ValueError that names option and value."""
    import regex

    wanted = validate_options(RegexOptions, "regex", options)
    flags = regex.MULTILINE | (regex.IGNORECASE if wanted.case == "ignore" else 0)
    try:
        compiled = regex.compile(wanted.pattern, flags)
    except (regex.error, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"option 'pattern' of the answer kind regex: {wanted.pattern!r} is no regular "
            f"expression: {error}"
        ) from error
    return RegexKind(wanted, compiled)


@dataclass(frozen=True)
class RegexKind:
    """Implements `AnswerKind`."""

    options: RegexOptions
    _compiled: regex.Pattern[str] = field(repr=False)
    name: str = "regex"

    @property
    def form(self) -> str:
        return f"State the final answer so that it matches {self.options.pattern}"

    def read(self, response: str) -> str | None:
        """See `explain`."""
        return self.explain(response).answer

    def explain(self, response: str) -> AnswerReading:
        """The last match outside of thoughts: its group `answer`, else its first group, else all.

        None where nothing matches or the search takes more than `SECONDS` or than the memory. The
        markers around a thought stay: the expression may name them.
        """
        utterance = strip_thoughts(response, keep_markers=True)
        group = 1 if self._compiled.groups else 0
        wanted = "answer" if "answer" in self._compiled.groupindex else group
        answer = None
        try:
            # A user's expression may backtrack exponentially; `regex` can stop a search, `re`
            # cannot.
            for match in self._compiled.finditer(utterance.text, timeout=SECONDS):
                found = match[wanted]
                if found and len(found) <= LONGEST and (tidied := tidy_text(found)):
                    answer = tidied
        except (TimeoutError, MemoryError):
            return AnswerReading(
                None, f"the search took more than {SECONDS:g} s or than the memory"
            )
        if answer is not None:
            return AnswerReading(answer, "the last match of the pattern")
        return (
            UNFINISHED
            if utterance.unfinished
            else AnswerReading(None, "the pattern matches nothing")
        )

    def read_gold(self, text: str) -> str:
        """What the expression finds, else the text itself: a bare answer."""
        return self.read(text) or read_bare_gold(text)

    def canonicalize(self, answer: str) -> str:
        """The text, in one case where case does not count."""
        return normalize_text(answer, self.options.case)

    def same(self, a: str, b: str) -> bool:
        """Equal text, by the rule for case."""
        return self.canonicalize(a) == self.canonicalize(b)
