"""Questions that are only assumed: what stands in for data that would have to be downloaded.

To price an experiment its questions' lengths are enough, and nothing is to be sent for that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from evals.tasks.base import Split, TaskQuestion
from evals.tasks.sources import cached_only

CHARACTERS = 400
"""How long an assumed question is; those of GSM8K have 240 on average, those of MATH 200."""

_TASKS: ContextVar[set[str] | None] = ContextVar("tasks", default=None)


@contextmanager
def without_download() -> Iterator[set[str]]:
    """Within it nothing is downloaded: tasks whose data are not in the cache give assumed
    questions. Yields the names of those tasks, which fill up as they are asked."""
    tasks: set[str] = set()
    token = _TASKS.set(tasks)
    try:
        with cached_only():
            yield tasks
    finally:
        _TASKS.reset(token)


def allow_placeholders(task: str) -> bool:
    """Whether questions may be assumed here; the task is noted then."""
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
