"""Answers found by the user's own regular expression (syntax of the package `regex`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import Field

from evals.answers.options import Options, checked
from evals.answers.reading import UNFINISHED, Reading
from evals.answers.stated import LONGEST
from evals.answers.text import Case, bare_gold, comparable, tidy
from evals.answers.thoughts import spoken

if TYPE_CHECKING:
    import regex

SECONDS = 2.0
"""Of the process's time, all threads together; a search that needs more finds nothing."""


class RegexOptions(Options):
    """`case` holds for the search and for the comparison."""

    pattern: str = Field(min_length=1)
    case: Case = "ignore"


def create(options: Mapping[str, object]) -> Regex:
    """The kind with the user's options. Raises ValueError that names option and value."""
    import regex

    wanted = checked(RegexOptions, "regex", options)
    flags = regex.MULTILINE | (regex.IGNORECASE if wanted.case == "ignore" else 0)
    try:
        compiled = regex.compile(wanted.pattern, flags)
    except (regex.error, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"option 'pattern' of the answer kind regex: {wanted.pattern!r} is no regular "
            f"expression: {error}"
        ) from error
    return Regex(wanted, compiled)


@dataclass(frozen=True)
class Regex:
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

    def explain(self, response: str) -> Reading:
        """The last match outside of thoughts: its group `answer`, else its first group, else all.

        None where nothing matches or the search takes more than `SECONDS` or than the memory. The
        markers around a thought stay: the expression may name them.
        """
        said = spoken(response, keep_markers=True)
        group = 1 if self._compiled.groups else 0
        wanted = "answer" if "answer" in self._compiled.groupindex else group
        answer = None
        try:
            for match in self._compiled.finditer(said.text, timeout=SECONDS):
                found = match[wanted]
                if found and len(found) <= LONGEST and (tidied := tidy(found)):
                    answer = tidied
        except (TimeoutError, MemoryError):
            return Reading(None, f"the search took more than {SECONDS:g} s or than the memory")
        if answer is not None:
            return Reading(answer, "the last match of the pattern")
        return UNFINISHED if said.unfinished else Reading(None, "the pattern matches nothing")

    def gold(self, text: str) -> str:
        """What the expression finds, else the text itself: a bare answer."""
        return self.read(text) or bare_gold(text)

    def canonical(self, answer: str) -> str:
        """The text, in one case where case does not count."""
        return comparable(answer, self.options.case)

    def same(self, a: str, b: str) -> bool:
        """Equal text, by the rule for case."""
        return self.canonical(a) == self.canonical(b)
