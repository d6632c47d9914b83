"""Which questions an experiment asks, of which tasks, in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from evals import tasks
from evals.tasks.base import Task, TaskQuestion

if TYPE_CHECKING:
    from society.config import Config


@dataclass(frozen=True, slots=True)
class Exam:
    """One task that every society is evaluated on; `zero_shot` where it is never trained on.

    `label` names the task in the store and begins its question ids.
    """

    label: str
    task: Task
    count: int
    zero_shot: bool

    def questions(self) -> Sequence[TaskQuestion]:
        """The held-out questions. Raises ValueError where the task has not that many."""
        found = self.task.questions("eval", 0, self.count)
        if self.label == self.task.name:
            return found
        prefix = f"{self.task.name}:"
        return [
            replace(q, question_id=f"{self.label}:{q.question_id.removeprefix(prefix)}")
            for q in found
        ]


class Questions:
    """The questions of one experiment, the same at every call."""

    def __init__(self, config: Config) -> None:
        """Raises ValueError for an unknown task and for what is wrong with a task's options."""
        self.config = config
        self.task = tasks.load(config.task.name, config.task.options)
        self.exams = (
            Exam(self.task.name, self.task, config.evaluation.questions, zero_shot=False),
            *self._zero_shot(),
        )

    def training(self, iteration: int) -> Sequence[TaskQuestion]:
        """The unlabelled questions that iteration `iteration` (from 1) debates."""
        return self.task.questions("train", self.start(iteration), self.config.train.questions)

    def start(self, iteration: int) -> int:
        """The position of an iteration's first training question."""
        return (iteration - 1) * self.config.train.questions if self.config.train.fresh else 0

    def all_training(self) -> Sequence[TaskQuestion]:
        """The training questions of all iterations, each once."""
        return self.task.questions("train", 0, self._needed) if self._needed else []

    def require(self) -> None:
        """Raise ValueError where a task has too few questions or a file cannot be read."""
        # Asking for the last one is enough to know that all are there.
        if self._needed:
            self.task.questions("train", self._needed - 1, 1)
        for number, exam in enumerate(self.exams, start=-1):
            with _named(number if exam.zero_shot else None):
                exam.questions()

    @property
    def _needed(self) -> int:
        passes = self.config.iterations if self.config.train.fresh else 1
        return passes * self.config.train.questions if self.config.iterations else 0

    def _zero_shot(self) -> Iterator[Exam]:
        taken = {self.task.name}
        for number, section in enumerate(self.config.zero_shot):
            with _named(number):
                task = tasks.load(section.name, section.options)
                label = section.label or task.name
                if label in taken:
                    raise ValueError(
                        f"the label {label!r} is taken; add label = another name, under which its "
                        "questions and results are kept apart"
                    )
            taken.add(label)
            count = section.questions or self.config.evaluation.questions
            yield Exam(label, task, count, zero_shot=True)


@contextmanager
def _named(number: int | None) -> Iterator[None]:
    """Say which zero-shot section an error is about; the tasks only know of `task`."""
    try:
        yield
    except ValueError as error:
        if number is None:
            raise
        raise ValueError(f"zero_shot.{number}: {error}") from error
