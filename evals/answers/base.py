"""What a kind of answer is: how it is asked for, read and compared."""

from __future__ import annotations

from typing import Protocol

from evals.answers.reading import Reading


class AnswerKind(Protocol):
    """The rules for one kind of answer; every task has one.

    All methods take linear time in what they are given, may be called from any thread and never
    block for longer than the judge's time limit.
    """

    @property
    def name(self) -> str:
        """What `evals.answers.kind` calls it."""

    @property
    def form(self) -> str:
        """The sentence that says how to state the final answer; it ends every prompt."""

    def read(self, response: str) -> str | None:
        """The last answer a response states, tidied, or None. Never raises."""

    def explain(self, response: str) -> Reading:
        """What `read` gives, and the rule by which; never raises."""

    def canonical(self, answer: str) -> str:
        """The one form, or a description of it, that all wordings of an answer have in common."""

    def gold(self, text: str) -> str:
        """The answer in a question's gold field: a bare answer or a worked solution.

        Raises ValueError that says what could not be read.
        """

    def same(self, a: str, b: str) -> bool:
        """Whether two read answers are the same answer. Reflexive, symmetric; never raises."""
