"""A curriculum: training questions that change with the iteration, usually from easy to hard.

Beyond the paper, and off unless `task.curriculum` is set. After Lee et al. 2025 (arXiv 2502.01612):
models that learn from their own answers get further when each round's questions are only a little
harder than what they are right on already. Rung k is for iteration k, the last one stays; its
options take the place of the task's own. Every rung is an exam of its own, `TASK@K`, also for the
untuned society and for rungs that are not reached.

Rungs may hold each other's questions (numbers up to 4 are numbers up to 10), so what any exam asks
is left out of the training questions of every rung.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from evals import tasks
from evals.leakage import normalised
from evals.tasks.base import Recognises, Task, TaskQuestion

_MARK = "@"


@dataclass(frozen=True, slots=True)
class Rung:
    """The task with one entry's options. `number` counts from 1; entries that come to the same
    options are one rung, by the number of the first.

    `label` begins its question ids. `own` says that it is the run's task as it stands.
    """

    number: int
    label: str
    task: Task = field(compare=False)
    own: bool

    def named(self, questions: Sequence[TaskQuestion]) -> list[TaskQuestion]:
        """The same questions under ids that no other rung has."""
        return labelled(self.task, self.label, questions)


def ladder(
    name: str, task: Task, options: Mapping[str, object], entries: Sequence[Mapping[str, object]]
) -> tuple[Rung, ...]:
    """The rung of every entry, in order; `task` is what `options` alone come to.

    Raises ValueError that names the entry.
    """
    rungs: list[Rung] = []
    merged: list[Mapping[str, object]] = []
    for number, entry in enumerate(entries, start=1):
        with named(number):
            if "name" in entry:
                raise ValueError("a rung changes the options of the task; remove name")
            changed = {**options, **entry}
            if changed in merged:
                rungs.append(rungs[merged.index(changed)])
            elif changed == options:
                rungs.append(Rung(number, task.name, task, own=True))
            else:
                label = f"{task.name}{_MARK}{number}"
                rungs.append(Rung(number, label, tasks.load(name, changed), own=False))
            merged.append(changed)
    return tuple(rungs)


def labelled(task: Task, label: str, questions: Sequence[TaskQuestion]) -> list[TaskQuestion]:
    """The task's questions with `label` for its name at the beginning of their ids."""
    if label == task.name:
        return list(questions)
    prefix = f"{task.name}:"
    return [
        replace(q, question_id=f"{label}:{q.question_id.removeprefix(prefix)}") for q in questions
    ]


def identity(task: Task, question: TaskQuestion) -> str:
    """What is equal for two questions that are one, of whichever rung."""
    if isinstance(task, Recognises):
        return task.identity(question)
    return normalised(question.text)


def drawn(rung: Rung, held_out: frozenset[str], count: int) -> list[TaskQuestion]:
    """The first `count` training questions of a rung that are not in `held_out` (identities).

    Raises ValueError, naming the rung, where it has not that many.
    """
    taken: list[TaskQuestion] = []
    position = 0
    while len(taken) < count:
        step = count - len(taken)
        try:
            asked = rung.task.questions("train", position, step)
        except ValueError as error:
            left_out = position - len(taken)
            why = f" ({left_out} are left out, since an exam asks them)" if left_out else ""
            raise ValueError(f"task.curriculum.{rung.number - 1}: {error}{why}") from error
        taken += [q for q in asked if identity(rung.task, q) not in held_out]
        position += step
    return rung.named(taken)


@contextmanager
def named(number: int) -> Iterator[None]:
    """Say which entry an error is about, as TOML counts them; the tasks only know of `task`."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"task.curriculum.{number - 1}: {error}") from error


# MERGED DOCSTRING of society.method.questions:
# """Which questions an experiment asks, of which tasks, in which order."""

if TYPE_CHECKING:
    from society.config.schema import Config


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
        return labelled(self.task, self.label, found)

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
            return named(self.rung)
        return nullcontext() if self.section is None else _named(self.section)


class Questions:
    """The questions of one experiment, the same at every call."""

    def __init__(self, config: Config) -> None:
        """Raises ValueError for an unknown task and for what is wrong with a task's options."""
        self.config = config
        section = config.task
        self.task = tasks.load(section.name, section.options)
        self.rungs = ladder(section.name, self.task, section.options, section.curriculum)
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
            known = self._drawn[rung.number] = drawn(rung, self._held_out, count)
        return known

    @cached_property
    def _held_out(self) -> frozenset[str]:
        return frozenset(
            identity(exam.task, question) for exam in self.exams for question in exam.questions()
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
