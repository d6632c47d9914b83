"""Reading the experiment file: TOML, the changes of `--set`, and messages about both.

Every key has a default except `model` and `task.name`; `society run demo` uses the packaged
`demo.toml` beside this module. Unknown keys are errors. `--set society.agents=5` changes one key.
The keys `seeds` and `sweep` make several runs of the experiment (`society.sweeps`); each of these
is a `Config`. Whether the experiment can be carried out is checked in `society.method.experiment`.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evals.tasks.sources.formats import read_text
from providers.validation import format_errors
from society.config.files import hash_text
from society.config.paths import anchor_paths
from society.config.reference import suggest_key
from society.config.schema import Config
from society.prompts.templates import PLACES


class ConfigError(ValueError):
    """The experiment file or an override is wrong; the message names key, value and remedy."""


SWEEP_KEYS = ("seeds", "sweep")


def load_config(source: str, overrides: Sequence[str] = ()) -> Config:
    """Read an experiment from a TOML file, or from a packaged one by its name.

    `overrides` are "dotted.key=value" with the value in TOML; bare words are text. `seeds` and
    `sweep` are left out: the result is the one run that the rest of the file describes. Raises
    `ConfigError`.

    >>> load_config("demo", ["society.agents=5"]).society.agents
    5
    """
    table, origin = read_table(source, overrides)
    return build_config(table, origin)


def read_table(source: str, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], str]:
    """The parsed file with its overrides, unchecked, and its name for messages.

    Paths in the file are relative to it, and are made relative to the working directory; those of
    overrides are taken as they are.
    """
    text, origin = _read_source(source)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{origin} is not valid TOML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{origin} is not valid TOML: it is too deeply nested") from error
    if source not in list_packaged():
        table = anchor_paths(table, Path(source).parent)
    for override in overrides:
        _apply_override(table, override)
    return table, origin


def build_config(table: dict[str, Any], origin: str, overrides: Sequence[str] = ()) -> Config:
    """The config in a parsed TOML table; `origin` names the table in messages.

    Files with selections (`datasets.generation`, `datasets.critic`) and prompts (`prompts.task`, …)
    are read. Raises `ConfigError` that lists everything that is wrong.
    """
    for override in overrides:
        _apply_override(table, override)
    one = {key: value for key, value in table.items() if key not in SWEEP_KEYS}
    # A file that cannot be read is one problem among others: all of them are listed at once.
    one, problems = _read_files(one)
    try:
        config = Config.model_validate(one)
    except ValidationError as error:
        problems += [_add_suggestion(line) for line in format_errors(error)]
        raise ConfigError(list_problems(origin, problems)) from error
    if problems:
        raise ConfigError(list_problems(origin, problems))
    return config


_UNKNOWN = ": unknown key; "
# Arms are names or tables; pydantic tells which of the two it read, and the number of the arm.
_PLACE = re.compile(r"\.\d+(\.(table|name))?")


def _add_suggestion(problem: str) -> str:
    """A problem, with the key that was probably meant if it is an unknown key."""
    key, unknown, remedy = problem.partition(_UNKNOWN)
    if unknown and (meant := suggest_key(_PLACE.sub("", key))):
        return f"{key}{_UNKNOWN}did you mean {meant}? Else {remedy}"
    return problem


def list_packaged() -> tuple[str, ...]:
    """Names of the experiments that come with the package."""
    names = (file.name for file in files("society.config").iterdir())
    return tuple(sorted(n.removesuffix(".toml") for n in names if n.endswith(".toml")))


def describe_differences(stored: str, current: str) -> list[str]:
    """What differs between two configs' canonical texts, one line per key."""
    return [
        _describe_difference(*change) for change in compare_configs(stored, current, "(absent)")
    ]


def compare_configs(
    stored: str, current: str, absent: str | None = None
) -> list[tuple[str, Any, Any]]:
    """The keys that differ between two canonical texts, with both values."""
    old, new = _flatten(json.loads(stored)), _flatten(json.loads(current))
    return [
        (key, old.get(key, absent), new.get(key, absent))
        for key in sorted(old.keys() | new.keys())
        if old.get(key, absent) != new.get(key, absent)
    ]


def _describe_difference(key: str, old: Any, new: Any) -> str:
    if isinstance(old, str) and isinstance(new, str) and "\n" in old + new:
        return f"{key}:\n{diff_lines(old, new)}"
    return f"{key}: stored {old!r}, now {new!r}"


def _read_source(source: str) -> tuple[str, str]:
    if source in list_packaged():
        return files("society.config").joinpath(f"{source}.toml").read_text("utf-8"), source
    path = Path(source)
    if not path.is_file():
        raise ConfigError(
            f"no experiment file {source!r}; pass a .toml file or one of: "
            f"{', '.join(list_packaged())}"
        )
    try:
        return read_text(path), str(path)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _apply_override(table: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    names = split_key(key)
    if not equals or not all(names):
        raise ConfigError(f"--set {override!r} is not of the form key=value, e.g. society.agents=5")
    set_key(table, names, parse_value(value), f"--set {override!r}")


def set_key(table: dict[str, Any], names: Sequence[str], value: object, origin: str) -> None:
    """Set one key of a table in place. Raises `ConfigError` where it would lie inside a value."""
    *parents, last = names
    # Sections that the file does not have are made, so that --set can name any key.
    for name in parents:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{origin}: {name!r} is a value, not a section")
    table[last] = value


def parse_value(text: str) -> Any:
    """A value as TOML writes it; bare words are taken as text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text


def split_key(key: str) -> list[str]:
    """The parts of a dotted key; a part with dots of its own is quoted, as in TOML."""
    # Quoted parts are left to the TOML parser: prices."gpt-4.1".input_usd has a dot in a name.
    if '"' not in key:
        return key.strip().split(".")
    try:
        table: Any = tomllib.loads(f"{key} = 0")
    except (tomllib.TOMLDecodeError, RecursionError):
        return [""]
    names = []
    while isinstance(table, dict):
        [(name, table)] = table.items()
        names.append(name)
    return names


def list_problems(origin: str, problems: Sequence[str]) -> str:
    """The message about everything that is wrong with an experiment file."""
    return "\n".join([f"{origin} has {len(problems)} problem(s):", *(f"  {p}" for p in problems)])


_FILES = {"datasets": ("generation", "critic"), "prompts": tuple(PLACES)}
"""The keys that name a file, by section."""


def _read_files(table: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The table with the text of every named file in place of its path, and what went wrong.

    A stored config has the text already, so that a run does not need the file any more.
    """
    problems: list[str] = []
    read = dict(table)
    for name, keys in _FILES.items():
        section = table.get(name)
        if isinstance(section, dict):
            read[name] = _read_files_of(name, section, keys, problems)
    if isinstance(table.get("arms"), list):
        read["arms"] = [_read_files_of_arm(entry, problems) for entry in table["arms"]]
    return read, problems


def _read_files_of_arm(entry: Any, problems: list[str]) -> Any:
    own = entry.get("datasets") if isinstance(entry, dict) else None
    if not isinstance(own, dict):
        return entry
    name = f"arms: {entry.get('name')!r}: datasets"
    return {**entry, "datasets": _read_files_of(name, own, _FILES["datasets"], problems)}


def _read_files_of(
    name: str, section: dict[str, Any], keys: Sequence[str], problems: list[str]
) -> dict[str, Any]:
    read = dict(section)
    for key in keys:
        given = section.get(key)
        if not isinstance(given, str):
            continue
        try:
            # The hash must not depend on how a checkout ends its lines.
            text = read_text(Path(given)).replace("\r\n", "\n")
        except ValueError as error:
            problems.append(f"{name}.{key}: cannot read {given!r}: {error}")
            del read[key]
            continue
        read[key] = {"file": Path(given).name, "text": text, "sha256": hash_text(text)}
    return read


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flatten(inner, f"{prefix}.{key}" if prefix else key)
    return flat


def diff_lines(stored: str, now: str) -> str:
    """What has changed between two texts, line by line."""
    lines = difflib.unified_diff(
        stored.splitlines(), now.splitlines(), "stored", "now", n=1, lineterm=""
    )
    return "\n".join(f"    {line}" for line in lines)
