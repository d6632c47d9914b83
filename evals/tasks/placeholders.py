"""Placeholder questions, for an estimate of costs on a machine without the data set.

An estimate needs only the length of the questions, so it downloads nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from evals.tasks.base import Split, TaskQuestion
from evals.tasks.sources import cached_only

CHARACTERS = 400
"""Length of a placeholder; questions of GSM8K have 240 on average, those of MATH 200."""

_TASKS: ContextVar[set[str] | None] = ContextVar("tasks", default=None)


@contextmanager
def without_download() -> Iterator[set[str]]:
    """Forbid downloads: tasks whose data are not in the cache give placeholders.

    Yields the names of those tasks; the set grows as tasks are asked for questions.
    """
    tasks: set[str] = set()
    token = _TASKS.set(tasks)
    try:
        with cached_only():
            yield tasks
    finally:
        _TASKS.reset(token)


def allow_placeholders(task: str) -> bool:
    """Whether `task` may give placeholders now; if so, its name is recorded."""
    tasks = _TASKS.get()
    if tasks is not None:
        tasks.add(task)
    return tasks is not None


def make_placeholders(task: str, split: Split, start: int, count: int) -> Sequence[TaskQuestion]:
    """Questions of `CHARACTERS` characters, no two alike."""
    return [
        TaskQuestion(f"{task}:{split}-{n}", f"{split} question {n} ".ljust(CHARACTERS, "?"), "0")
        for n in range(start, start + count)
    ]
