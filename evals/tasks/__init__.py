"""The tasks by name.

A third party adds one with an entry point in the group ``society.tasks`` whose object takes the
task's options as a mapping and returns a `Task`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import cast

from evals.tasks.base import Task

ENTRY_POINT_GROUP = "society.tasks"

_BUILT_IN = {"arithmetic": ("evals.tasks.arithmetic", "create")}

TaskFactory = Callable[[Mapping[str, object]], Task]


def load(name: str, options: Mapping[str, object]) -> Task:
    """The task `name`, set up with its own options.

    Raises ValueError for an unknown name and for what is wrong with an option.
    """
    return _factory(name)(options)


def names() -> tuple[str, ...]:
    """Every task that can be used here, the built-in ones first."""
    installed = (point.name for point in entry_points(group=ENTRY_POINT_GROUP))
    return tuple(dict.fromkeys((*_BUILT_IN, *installed)))


def _factory(name: str) -> TaskFactory:
    if name in _BUILT_IN:
        module, attribute = _BUILT_IN[name]
        return cast(TaskFactory, getattr(importlib.import_module(module), attribute))
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name == name:
            return cast(TaskFactory, point.load())
    raise ValueError(f"unknown task {name!r}; known tasks: {', '.join(names())}")
