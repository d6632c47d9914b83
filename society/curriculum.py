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
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

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
