"""The tasks by name.

``module:Class`` names the user's own task: a class (or function) that takes the options as a
mapping and returns a `Task`, in a module of the current directory or an installed one;
``folder/module:Class`` names one in another folder. A package adds a name with an entry point in
the group ``society.tasks`` whose object does the same.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import cast

from pydantic import BaseModel

from evals.tasks.base import Task

ENTRY_POINT_GROUP = "society.tasks"

_BUILT_IN = {
    "arithmetic": "ArithmeticOptions",
    "gsm8k": "Gsm8kOptions",
    "math": "MathOptions",
    "mmlu": "MmluOptions",
    "file": "FileOptions",
}
"""The model of each task's options, in the module of its name."""

_METHODS = ("questions", "prompt", "extract", "equivalent", "style")
_TEXTS = ("name", "answer_form")

TaskFactory = Callable[[Mapping[str, object]], Task]


def load_task(name: str, options: Mapping[str, object]) -> Task:
    """The task `name`, set up with its own options.

    Raises ValueError for an unknown name, for what is wrong with an option, and for a module or
    object that is no task.
    """
    if name in _BUILT_IN:
        return cast(TaskFactory, _load_built_in(name).create)(options)
    if ":" in name:
        return _make_task(name, _load_from_module(name), options)
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name == name:
            return _make_task(name, _load_from_entry_point(point), options)
    raise ValueError(
        f"unknown task {name!r}; known tasks: {', '.join(list_names())}; "
        "name your own as module:Class"
    )


def list_names() -> tuple[str, ...]:
    """Every task that can be used by a bare name here, the built-in ones first."""
    installed = (point.name for point in entry_points(group=ENTRY_POINT_GROUP))
    return tuple(dict.fromkeys((*_BUILT_IN, *installed)))


def list_built_in() -> tuple[str, ...]:
    """The tasks of this package."""
    return tuple(_BUILT_IN)


def read_options_model(name: str) -> type[BaseModel]:
    """The model of a built-in task's options, which describes them."""
    return cast(type[BaseModel], getattr(_load_built_in(name), _BUILT_IN[name]))


def _load_built_in(name: str) -> ModuleType:
    return importlib.import_module(f"evals.tasks.{name}")


def _load_from_module(name: str) -> object:
    place, _, attribute = name.partition(":")
    folder, _, module_name = place.rpartition("/")
    here = str(Path(folder).resolve())
    if here not in sys.path:
        # Last: a file here must not hide an installed module of the same name.
        sys.path.append(here)
    # A module may have been written a moment ago.
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name in _list_prefixes(module_name):
            raise ValueError(
                f"task {name!r}: there is no module {error.name!r} in {here} "
                "or installed; check the spelling or change to its folder"
            ) from error
        raise ValueError(
            f"task {name!r}: importing {module_name} failed: {_format_error(error)}"
        ) from error
    # An installed module comes first, so a module of the named folder may be hidden.
    if folder and not _lies_in(module, Path(here)):
        raise ValueError(
            f"task {name!r}: {module_name} was imported from "
            f"{getattr(module, '__file__', None)}, not from {here}; give it another name"
        )
    if not hasattr(module, attribute or " "):
        public = ", ".join(key for key in vars(module) if not key.startswith("_")) or "nothing"
        raise ValueError(
            f"task {name!r}: {module_name} ({getattr(module, '__file__', None)}) has no "
            f"{attribute!r}; it has {public}"
        )
    return getattr(module, attribute)


def _lies_in(module: ModuleType, folder: Path) -> bool:
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    return any(place and Path(place).resolve().is_relative_to(folder) for place in places)


def _list_prefixes(module_name: str) -> list[str]:
    parts = module_name.split(".")
    return [".".join(parts[: n + 1]) for n in range(len(parts))] or [""]


def _load_from_entry_point(point: EntryPoint) -> object:
    try:
        return point.load()
    except Exception as error:
        raise ValueError(
            f"task {point.name!r}: importing {point.value} failed: {_format_error(error)}; "
            "reinstall or remove the package that provides it"
        ) from error


def _make_task(name: str, factory: object, options: Mapping[str, object]) -> Task:
    """What the factory returns, where it has everything a task needs."""
    if not callable(factory):
        raise ValueError(f"task {name!r} is a {type(factory).__name__}, not a class or function")
    try:
        task = factory(options)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(
            f"task {name!r}: making it with the options {dict(options)!r} failed: "
            f"{_format_error(error)}"
        ) from error
    missing = [f"the method {m}" for m in _METHODS if not callable(getattr(task, m, None))]
    missing += [f"the text {t}" for t in _TEXTS if not isinstance(getattr(task, t, None), str)]
    if missing:
        raise ValueError(
            f"task {name!r} gives a {type(task).__name__} without {', '.join(missing)}; "
            "evals.tasks.base.Task says what each must do"
        )
    return cast(Task, task)


def _format_error(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
