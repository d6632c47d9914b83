"""What a kind of answer is: how it is asked for, read and compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from providers.validation import format_errors


@dataclass(frozen=True, slots=True)
class AnswerReading:
    """The answer of a response, or None, and the rule that found it or the reason for None."""

    answer: str | None
    rule: str


class AnswerKind(Protocol):
    r"""The rules for one kind of answer; every task has one.

    All methods take linear time in what they are given, may be called from any thread and never
    block for longer than the judge's time limit. For instance:

        number = load_kind("number", {})
        number.read(r"3 * 6 = 18, so \boxed{18.0}")     # "18"
        number.same("18", "36/2")                       # True
    """

    @property
    def name(self) -> str:
        """The name that `evals.answers.load_kind` loads it by."""

    @property
    def form(self) -> str:
        """The sentence that says how to state the final answer; it ends every prompt."""

    def read(self, response: str) -> str | None:
        """The last answer that a response states, normalized, or None. Never raises."""

    def explain(self, response: str) -> AnswerReading:
        """The answer that `read` gives, with the rule that found it. Never raises."""

    def canonicalize(self, answer: str) -> str:
        """The form, or a description of it, that all wordings of an answer have in common."""

    def read_gold(self, text: str) -> str:
        """The answer in a question's gold field: a bare answer or a worked solution.

        Raises ValueError that says what could not be read.
        """

    def same(self, a: str, b: str) -> bool:
        """Whether two read answers are the same answer. Reflexive, symmetric; never raises."""


class KindOptions(BaseModel):
    """The options of one kind; a subclass lists them."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


AnyOptions = TypeVar("AnyOptions", bound=KindOptions)


def validate_options(
    model: type[AnyOptions], kind: str, options: Mapping[str, object]
) -> AnyOptions:
    """The options as `model`. Raises ValueError that names each wrong option and its value."""
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        option = f"option '{{key}}' of the answer kind {kind}"
        allowed = ", ".join(model.model_fields) or "none"
        messages = {
            "extra_forbidden": f"unknown {option}; it has {allowed}",
            "missing": f"{option} is missing; give it",
            "other": f"{option}: {{problem}}, got {{value}}",
        }
        raise ValueError("; ".join(format_errors(error, messages))) from error
