"""Paths in an experiment file, which are relative to the file.

A run stores them relative to the working directory, from which its folder is named too. What is not
beside the file is left as it is: files that name their data from the working directory keep their
meaning, and runs that have stored such names can be resumed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from providers import registry

_FILES = frozenset(
    {
        *("task.path", "task.train_path", "task.eval_path"),
        *("datasets.generation", "datasets.critic"),
        *("prompts.task", "prompts.quoted", "prompts.summarized", "prompts.summarize"),
        "provider.offload_folder",
    }
)
_FILES_OR_NAMES = frozenset({"provider.tokenizer", "diversity.encoder"})
"""Keys that name a folder or something on the hub."""
_ADDRESSES = frozenset({"model", "society.models"})
_TABLES_OF = {
    "arms": "",
    "sweep": "",
    "zero_shot": "task",
    "task.curriculum": "task",
    "providers": "provider",
    "serving.settings": "provider",
}
"""Tables that have the keys of another one."""


def anchor_paths(table: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A parsed experiment file of `folder`, with every path relative to the working directory.

    >>> anchor_paths({"task": {"path": "questions.csv"}}, Path("experiments"))
    {'task': {'path': 'experiments/questions.csv'}}
    """
    # A run's own copy of its experiment has the paths of the run.
    if folder.resolve() == Path.cwd() or (folder / "run.duckdb").exists():
        return table
    anchored: dict[str, Any] = _anchor(table, "", folder)
    return anchored


def name_from(folder: Path, path: str) -> str:
    """How an experiment file in `folder` names a path of the working directory.

    >>> name_from(Path("experiments"), "questions.csv")
    '../questions.csv'
    """
    if _is_fixed(path) or folder.resolve() == Path.cwd():
        return path
    return _make_relative(Path(path), folder)


def name_address_from(folder: Path, address: str) -> str:
    """How an experiment file in `folder` writes the address of a model; see `name_from`."""
    scheme, colon, target = address.partition(":")
    if not colon or not registry.info(address).free or not Path(target).exists():
        return address
    return scheme + colon + name_from(folder, target)


def _anchor(value: Any, key: str, folder: Path) -> Any:
    """`value` of the key `key`, a dotted name in which a table in a list has the list's name."""
    if isinstance(value, dict):
        own = _TABLES_OF.get(key, key)
        if key == "providers":
            return {
                _anchor_address(name, folder): _anchor(inner, own, folder)
                for name, inner in value.items()
            }
        prefix = f"{own}." if own else ""
        return {name: _anchor(inner, prefix + name, folder) for name, inner in value.items()}
    if isinstance(value, list):
        return [_anchor(each, key, folder) for each in value]
    return _anchor_text(value, key, folder) if isinstance(value, str) and value else value


def _anchor_text(text: str, key: str, folder: Path) -> str:
    if key in _FILES:
        return _anchor_path(text, folder, may_be_name=False)
    if key in _FILES_OR_NAMES:
        return _anchor_path(text, folder, may_be_name=True)
    if key in _ADDRESSES:
        return _anchor_address(text, folder)
    return _anchor_module(text, folder) if key == "task.name" else text


def _anchor_path(text: str, folder: Path, *, may_be_name: bool) -> str:
    beside = folder / text
    if _is_fixed(text) or (Path(text).exists() and not beside.exists()):
        return text
    # A message about what is at neither place should name the place beside the file.
    if not beside.exists() and may_be_name and not text.startswith("."):
        return text
    return _make_relative(beside, Path.cwd())


def _anchor_address(address: str, folder: Path) -> str:
    scheme, colon, target = address.partition(":")
    # Models that cost nothing are on this machine; a vendor's name may look like any file's.
    if not target or not registry.info(address).free:
        return address
    return scheme + colon + _anchor_path(target, folder, may_be_name=True)


def _anchor_module(name: str, folder: Path) -> str:
    """The name of a task's class, with the folder of its module before it; see `load_task`."""
    module, colon, _ = name.partition(":")
    first = folder / module.partition(".")[0]
    if not colon or "/" in module or not (first.is_dir() or first.with_suffix(".py").is_file()):
        return name
    return f"{_make_relative(folder, Path.cwd())}/{name}"


def _is_fixed(path: str) -> bool:
    return path.startswith("~") or Path(path).is_absolute()


def _make_relative(path: Path, start: Path) -> str:
    try:
        return Path(os.path.relpath(path, start)).as_posix()
    # Windows has no way from one drive to another.
    except ValueError:
        return path.resolve().as_posix()
