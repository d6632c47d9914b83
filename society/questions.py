"""Which questions an experiment asks, of which tasks, in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from evals import tasks
from evals.tasks.base import Task, TaskQuestion
from society import curriculum
from society.curriculum import Rung

if TYPE_CHECKING:
    from society.config import Config


@dataclass(frozen=True, slots=True)
class Exam:
    """One task that every society is evaluated on; `zero_shot` where it is never trained on.

    `label` names the task in the store and begins its question ids. `rung` is the number of the
    rung of the curriculum whose exam it is. `place` names its section in errors.
    """

    label: str
    task: Task
    count: int
    zero_shot: bool
    rung: int | None = None
    section: int | None = None

    def questions(self) -> Sequence[TaskQuestion]:
        """The held-out questions. Raises ValueError where the task has not that many."""
        with self._named():
            found = self.task.questions("eval", 0, self.count)
        return curriculum.labelled(self.task, self.label, found)

    @property
    def apart(self) -> bool:
        """Whether it is told apart from the run's own evaluation questions."""
        return self.zero_shot or self.rung is not None

    @property
    def stage(self) -> str:
        """What answering it is called: "evaluate", "zero-shot LABEL" or "rung LABEL"."""
        if self.rung is not None:
            return f"rung {self.label}"
        return f"zero-shot {self.label}" if self.zero_shot else "evaluate"

    def _named(self) -> AbstractContextManager[None]:
        if self.rung is not None:
            return curriculum.named(self.rung)
        return nullcontext() if self.section is None else _named(self.section)


class Questions:
    """The questions of one experiment, the same at every call."""

    def __init__(self, config: Config) -> None:
        """Raises ValueError for an unknown task and for what is wrong with a task's options."""
        self.config = config
        section = config.task
        self.task = tasks.load(section.name, section.options)
        self.rungs = curriculum.ladder(section.name, self.task, section.options, section.curriculum)
        count = config.evaluation.questions
        self.exams = (
            Exam(self.task.name, self.task, count, zero_shot=False),
            *(
                Exam(rung.label, rung.task, count, zero_shot=False, rung=rung.number)
                for rung in dict.fromkeys(self.rungs)
                if not rung.own
            ),
            *self._zero_shot(),
        )
        self._drawn: dict[int, list[TaskQuestion]] = {}

    def task_of(self, iteration: int) -> Task:
        """The task that iteration `iteration` (from 1) trains on: its rung, if there are rungs."""
        rung = self._rung(iteration)
        return self.task if rung is None else rung.task

    def training(self, iteration: int) -> Sequence[TaskQuestion]:
        """The unlabelled questions that iteration `iteration` (from 1) debates."""
        start, count = self.start(iteration), self.config.train.questions
        rung = self._rung(iteration)
        if rung is None:
            return self.task.questions("train", start, count)
        return self._of_rung(rung, start + count)[start : start + count]

    def start(self, iteration: int) -> int:
        """The position of an iteration's first question in its task, or in its rung."""
        if not self.config.train.fresh:
            return 0
        rung = self._rung(iteration)
        before = sum(self._rung(k) == rung for k in range(1, iteration))
        return before * self.config.train.questions

    def made_for(self, iteration: int) -> int | None:
        """The first iteration that debates the questions of `iteration`; None: all debate them."""
        if self.config.train.fresh:
            return iteration
        rung = self._rung(iteration)
        return None if rung is None else rung.number

    def all_training(self) -> Sequence[TaskQuestion]:
        """The training questions of all iterations, each once."""
        if not self.rungs:
            return self.task.questions("train", 0, self._needed) if self._needed else []
        found = (self.training(k) for k in range(1, self.config.iterations + 1))
        return list({q.question_id: q for questions in found for q in questions}.values())

    def require(self) -> None:
        """Raise ValueError where a task has too few questions or a file cannot be read."""
        if self.rungs:
            self.all_training()
        elif self._needed:
            # Asking for the last one is enough to know that all are there.
            self.task.questions("train", self._needed - 1, 1)
        for exam in self.exams:
            exam.questions()

    @property
    def _needed(self) -> int:
        passes = self.config.iterations if self.config.train.fresh else 1
        return passes * self.config.train.questions if self.config.iterations else 0

    def _rung(self, iteration: int) -> Rung | None:
        return self.rungs[min(iteration, len(self.rungs)) - 1] if self.rungs else None

    def _of_rung(self, rung: Rung, count: int) -> list[TaskQuestion]:
        known = self._drawn.get(rung.number, [])
        if len(known) < count:
            known = self._drawn[rung.number] = curriculum.drawn(rung, self._held_out, count)
        return known

    @cached_property
    def _held_out(self) -> frozenset[str]:
        return frozenset(
            curriculum.identity(exam.task, question)
            for exam in self.exams
            for question in exam.questions()
        )

    def _zero_shot(self) -> Iterator[Exam]:
        taken = {self.task.name, *(rung.label for rung in self.rungs)}
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
            yield Exam(label, task, count, zero_shot=True, section=number)


@contextmanager
def _named(section: int) -> Iterator[None]:
    """Say which zero-shot section an error is about; the tasks only know of `task`."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"zero_shot.{section}: {error}") from error
