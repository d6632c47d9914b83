"""Which questions an experiment asks, of which tasks, in which order.

A curriculum changes the training questions with the iteration, usually from easy to hard. It goes
beyond the paper and is off unless `task.curriculum` is set. After Lee et al. 2025 (arXiv
2502.01612): models that learn from their own answers get further when each iteration's questions
are only a little harder than those they already answer correctly. Stage k is for iteration k, and
the last stage stays; its options replace the task's own. With `task.mastery` the society's votes
say when the next stage comes (`society.method.mastery`). Every stage has an evaluation set of its
own, `TASK@K`, which all societies answer: the untuned one too, and also sets of stages that no
iteration reaches.

One stage may contain another's questions (numbers up to 4 are numbers up to 10), so the questions
of all evaluation sets are left out of the training questions of every stage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property

from evals import tasks
from evals.overlap import normalize_question
from evals.tasks.base import Recognises, Task, TaskQuestion
from society.config.schema import Config

_MARK = "@"


@dataclass(frozen=True, slots=True)
class CurriculumStage:
    """The task with one entry's options. `number` counts from 1; entries that come to the same
    options are one stage, by the number of the first.

    `label` begins its question ids. `own` says that it is the run's task as it stands.
    """

    number: int
    label: str
    task: Task = field(compare=False)
    own: bool

    def draw_training(self, held_out: frozenset[str], count: int) -> list[TaskQuestion]:
        """The first `count` training questions whose identity is not in `held_out`.

        Raises ValueError, naming the stage, where it has not that many.
        """
        # The number of questions that are left out is not known beforehand, so as many as are
        # still missing are drawn again and again.
        drawn: list[TaskQuestion] = []
        position = 0
        while len(drawn) < count:
            step = count - len(drawn)
            try:
                offered = self.task.questions("train", position, step)
            except ValueError as error:
                left_out = position - len(drawn)
                why = f" ({left_out} are in an evaluation set and left out)" if left_out else ""
                raise ValueError(f"task.curriculum.{self.number - 1}: {error}{why}") from error
            drawn += [q for q in offered if get_identity(self.task, q) not in held_out]
            position += step
        return relabel(self.task, self.label, drawn)


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """The held-out questions of one task, which every society answers.

    `label` names the task in the store and begins its question ids. `zero_shot`: it is never
    trained on. `curriculum_stage` is the number of the stage that it belongs to, `section` that of
    its `[[zero_shot]]` section, for messages.
    """

    label: str
    task: Task
    count: int
    zero_shot: bool
    curriculum_stage: int | None = None
    section: int | None = None

    def questions(self) -> Sequence[TaskQuestion]:
        """The held-out questions. Raises ValueError where the task has not that many."""
        with self._name_section():
            found = self.task.questions("eval", 0, self.count)
        return relabel(self.task, self.label, found)

    @property
    def is_extra(self) -> bool:
        """Whether it is not the run's own evaluation set, and its results are kept apart."""
        return self.zero_shot or self.curriculum_stage is not None

    @property
    def stage(self) -> str:
        """The name of answering it: "evaluate", "zero-shot LABEL" or "curriculum LABEL"."""
        if self.curriculum_stage is not None:
            return f"curriculum {self.label}"
        return f"zero-shot {self.label}" if self.zero_shot else "evaluate"

    def _name_section(self) -> AbstractContextManager[None]:
        if self.curriculum_stage is not None:
            return name_section(f"task.curriculum.{self.curriculum_stage - 1}")
        return nullcontext() if self.section is None else name_section(f"zero_shot.{self.section}")


class Questions:
    """The questions of one experiment, the same at every call.

    With `task.mastery` only `enter_stage` says which stage an iteration after the first trains on;
    until then its training questions raise KeyError, and `foresee` lists those it may get.
    """

    def __init__(self, config: Config) -> None:
        """Raises ValueError for an unknown task and for what is wrong with a task's options."""
        self.config = config
        section = config.task
        self.task = tasks.load_task(section.name, section.options)
        self.curriculum = build_curriculum(
            section.name, self.task, section.options, section.curriculum
        )
        count = config.evaluation.questions
        self.evaluation_sets = (
            EvaluationSet(self.task.name, self.task, count, zero_shot=False),
            *(
                EvaluationSet(
                    stage.label, stage.task, count, zero_shot=False, curriculum_stage=stage.number
                )
                for stage in dict.fromkeys(self.curriculum)
                if not stage.own
            ),
            *self._zero_shot(),
        )
        self._drawn: dict[int, list[TaskQuestion]] = {}
        self._entered = {1: 1}

    def enter_stage(self, iteration: int, entry: int) -> CurriculumStage:
        """Let `iteration` train on the curriculum's entry number `entry` (from 1)."""
        self._entered[iteration] = entry
        return self.curriculum[entry - 1]

    def task_of(self, iteration: int) -> Task:
        """The task that iteration `iteration` (from 1) trains on."""
        stage = self._stage(iteration)
        return self.task if stage is None else stage.task

    def training_questions(self, iteration: int) -> Sequence[TaskQuestion]:
        """The unlabelled questions that iteration `iteration` (from 1) debates."""
        start, count = self.start(iteration), self.config.train.questions
        stage = self._stage(iteration)
        if stage is None:
            return self.task.questions("train", start, count)
        return self._of_stage(stage, start + count)[start : start + count]

    def foresee(self, iteration: int) -> list[tuple[Task, Sequence[TaskQuestion]]]:
        """What an iteration may train on: one task with questions, or one for each stage that the
        iteration may have come to."""
        if self._follows_iterations:
            return [(self.task_of(iteration), self.training_questions(iteration))]
        reachable = dict.fromkeys(self.curriculum[:iteration])
        count = self.config.train.questions
        return [(stage.task, self._of_stage(stage, count)[:count]) for stage in reachable]

    def start(self, iteration: int) -> int:
        """The position of an iteration's first question in its task, or in its stage."""
        if not self.config.train.fresh:
            return 0
        stage = self._stage(iteration)
        # Stages may recur, so it counts how many earlier iterations took questions of this one.
        before = sum(self._stage(k) == stage for k in range(1, iteration))
        return before * self.config.train.questions

    def first_iteration(self, iteration: int) -> int | None:
        """The first iteration that debates the questions of `iteration`; None: all debate them."""
        if self.config.train.fresh:
            return iteration
        stage = self._stage(iteration)
        if stage is None:
            return None
        return next(k for k in range(1, iteration + 1) if self._stage(k) == stage)

    def all_training_questions(self) -> Sequence[TaskQuestion]:
        """The training questions of all iterations, each once; with `task.mastery`, all that any
        iteration may train on."""
        if not self.curriculum:
            return (
                self.task.questions("train", 0, self._training_count)
                if self._training_count
                else []
            )
        iterations, section = self.config.iterations, self.config.train
        if self._follows_iterations:
            found = [self.training_questions(k) for k in range(1, iterations + 1)]
        else:
            found = [
                # The stage may be entered in the iteration of its number and then stay.
                self._of_stage(
                    stage,
                    section.questions * (iterations + 1 - stage.number if section.fresh else 1),
                )
                for stage in dict.fromkeys(self.curriculum[:iterations])
            ]
        return list({q.question_id: q for questions in found for q in questions}.values())

    def check_available(self) -> None:
        """Raise ValueError where a task has too few questions or a file cannot be read."""
        if self.curriculum:
            self.all_training_questions()
        elif self._training_count:
            # A task that has its last question has all of them.
            self.task.questions("train", self._training_count - 1, 1)
        for evaluation_set in self.evaluation_sets:
            evaluation_set.questions()

    @property
    def _training_count(self) -> int:
        passes = self.config.iterations if self.config.train.fresh else 1
        return passes * self.config.train.questions if self.config.iterations else 0

    @property
    def _follows_iterations(self) -> bool:
        return self.config.task.mastery is None

    def _stage(self, iteration: int) -> CurriculumStage | None:
        stages = self.curriculum
        if not stages:
            return None
        reached = min(iteration, len(stages))
        return stages[(reached if self._follows_iterations else self._entered[iteration]) - 1]

    def _of_stage(self, stage: CurriculumStage, count: int) -> list[TaskQuestion]:
        # Drawing compares every question with all evaluation sets; each iteration only adds to
        # what earlier ones have drawn.
        known = self._drawn.get(stage.number, [])
        if len(known) < count:
            known = self._drawn[stage.number] = stage.draw_training(self._held_out, count)
        return known

    @cached_property
    def _held_out(self) -> frozenset[str]:
        return frozenset(
            get_identity(evaluation_set.task, question)
            for evaluation_set in self.evaluation_sets
            for question in evaluation_set.questions()
        )

    def _zero_shot(self) -> Iterator[EvaluationSet]:
        taken = {self.task.name, *(stage.label for stage in self.curriculum)}
        for number, section in enumerate(self.config.zero_shot):
            with name_section(f"zero_shot.{number}"):
                task = tasks.load_task(section.name, section.options)
                label = section.label or task.name
                if label in taken:
                    raise ValueError(
                        f"the label {label!r} is taken; add label = another name, under which its "
                        "questions and results are kept apart"
                    )
            taken.add(label)
            count = section.questions or self.config.evaluation.questions
            yield EvaluationSet(label, task, count, zero_shot=True, section=number)


def build_curriculum(
    name: str, task: Task, options: Mapping[str, object], entries: Sequence[Mapping[str, object]]
) -> tuple[CurriculumStage, ...]:
    """The stage of every entry, in order; `task` is what `options` alone come to.

    Raises ValueError that names the entry.
    """
    stages: list[CurriculumStage] = []
    merged: list[Mapping[str, object]] = []
    for number, entry in enumerate(entries, start=1):
        with name_section(f"task.curriculum.{number - 1}"):
            if "name" in entry:
                raise ValueError(
                    "a stage of a curriculum changes the options of the task; remove name"
                )
            changed = {**options, **entry}
            if changed in merged:
                stages.append(stages[merged.index(changed)])
            elif changed == options:
                stages.append(CurriculumStage(number, task.name, task, own=True))
            else:
                label = f"{task.name}{_MARK}{number}"
                stages.append(
                    CurriculumStage(number, label, tasks.load_task(name, changed), own=False)
                )
            merged.append(changed)
    return tuple(stages)


def relabel(task: Task, label: str, questions: Sequence[TaskQuestion]) -> list[TaskQuestion]:
    """The task's questions with `label` in place of its name at the beginning of their ids."""
    if label == task.name:
        return list(questions)
    prefix = f"{task.name}:"
    return [
        replace(q, question_id=f"{label}:{q.question_id.removeprefix(prefix)}") for q in questions
    ]


def get_identity(task: Task, question: TaskQuestion) -> str:
    """A text that two questions share if and only if they are the same, in any stage."""
    if isinstance(task, Recognises):
        return task.identity(question)
    return normalize_question(question.text)


@contextmanager
def name_section(section: str) -> Iterator[None]:
    """Put the section of the experiment file before a task's message, which only knows `task`."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{section}: {error}") from error
