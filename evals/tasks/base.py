"""What a task is: questions, the prompt for one, and how to read and compare answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

Split = Literal["train", "eval"]


@dataclass(frozen=True, slots=True)
class TaskQuestion:
    """One question. `gold` is None where the answer is unknown. It never reaches training."""

    question_id: str
    text: str
    gold: str | None
    meta: Mapping[str, str] = field(default_factory=dict)


class Task(Protocol):
    """A set of questions and the rules for their answers. One file per task implements it.

    A run uses a task in this way, with `response` a model's answer to the prompt:

        task = load_task("gsm8k", {})
        [question] = task.questions("eval", start=0, count=1)
        prompt = task.prompt(question.text)
        answer = task.extract(response)                      # "18", or None
        right = answer is not None and task.equivalent(answer, question.gold)
    """

    name: str
    answer_form: str
    """The sentence that says how to state the final answer; it ends every prompt."""

    def questions(self, split: Split, start: int, count: int) -> Sequence[TaskQuestion]:
        """`count` questions of a split from position `start` on, the same at every call.

        Raises ValueError where the task has not that many.
        """

    def prompt(self, text: str) -> str:
        """The user message that opens round 1."""

    def extract(self, response: str) -> str | None:
        """The final answer stated in a response, or None. Never raises."""

    def equivalent(self, a: str, b: str) -> bool:
        """Whether two extracted answers are the same answer. Symmetric; never raises."""

    def style(self, response: str) -> str | None:
        """The way of reasoning a response uses, where the task knows any."""


@runtime_checkable
class Recognises(Protocol):
    """A task that knows when two texts are one question, beyond being the same words."""

    def identity(self, question: TaskQuestion) -> str:
        """Equal for questions that are one and the same, whatever the task's options."""


@runtime_checkable
class ReadsGold(Protocol):
    """A task that can read the gold answers of files that are not its own."""

    def read_gold(self, text: str) -> str:
        """The answer in a gold field, bare or a worked solution. Raises ValueError."""
