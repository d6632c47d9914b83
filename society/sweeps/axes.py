"""What a sweep varies, as the user writes it: `--grid`, `--list`, `--seeds`, or keys of the file.

seeds = [0, 1, 2]

[sweep]                      # every combination of
datasets.w = [0.2, 0.5]
society.agents = [3, 5]

The name of a member depends on its own settings only, so that the same settings find the same run.
Adding values to a grid, or seeds, keeps the names of earlier runs.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.tasks.sources.formats import read_text
from society.config import load as experiments
from society.config.load import ConfigError

_FORBIDDEN_KEYS = {
    ("seed",): "set seeds with --seeds, or with seeds = [0, 1, 2] in the file",
    ("seeds",): "set seeds with --seeds, or with seeds = [0, 1, 2] in the file",
    ("sweep",): "a sweep cannot contain a sweep",
}


@dataclass(frozen=True, slots=True)
class SweepOptions:
    """The axes given on the command line: "KEY=v1,v2" each, a .jsonl file, "0,1,2"."""

    grid: Sequence[str] = ()
    listed: Path | None = None
    seeds: str | None = None

    def __bool__(self) -> bool:
        return bool(self.grid or self.listed is not None or self.seeds is not None)


@dataclass(frozen=True, slots=True)
class SweepSource:
    """What describes a sweep: an experiment, its `--set` overrides, the command line's axes."""

    experiment: str
    overrides: Sequence[str] = ()
    options: SweepOptions = SweepOptions()

    def several(self) -> bool:
        """Whether this describes several runs. Raises `ConfigError` if the file cannot be read."""
        if self.options:
            return True
        table, _ = experiments.read_table(self.experiment, self.overrides)
        return any(key in table for key in experiments.SWEEP_KEYS)


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One combination of settings; its runs differ in their seeds only."""

    name: str
    settings: Settings


@dataclass(frozen=True, slots=True)
class Axes:
    """Every combination of a line of `listed` and a value for each key of `grid`, times `seeds`.

    `own_seed`: the only seed is the experiment's own.
    """

    grid: Mapping[KeyPath, tuple[object, ...]]
    listed: tuple[SweepPoint, ...]
    seeds: tuple[int, ...]
    own_seed: bool = False

    def points(self) -> Iterator[SweepPoint]:
        """All combinations, the last key varying fastest."""
        # Without a list there is one empty point, which the grid multiplies.
        for given in self.listed or (SweepPoint("", {}),):
            for values in itertools.product(*self.grid.values()):
                varied = dict(zip(self.grid, values, strict=True))
                if both := varied.keys() & given.settings.keys():
                    key = format_key(min(both))
                    raise ConfigError(f"{key} is in the grid and in the list; leave one out")
                name = "_".join(filter(None, (given.name, name_point(varied))))
                yield SweepPoint(name, {**given.settings, **varied})


def read_axes(table: Mapping[str, Any], options: SweepOptions, origin: str) -> Axes:
    """The axes of a parsed experiment file; the command line overrides it, key by key.

    Raises `ConfigError` that names the value and the remedy.
    """
    grid = _read_table(table.get("sweep", {}), origin)
    given: dict[KeyPath, tuple[object, ...]] = {}
    for text in options.grid:
        path, values = _parse_option(text)
        if path in given:
            raise ConfigError(f"--grid names {format_key(path)} twice; give all its values once")
        given[path] = values
    # The command line replaces a key's values rather than adding to them, as --set does.
    grid |= given
    for path, values in grid.items():
        _check_values(path, values)
    listed = () if options.listed is None else _read_list(options.listed)
    default = [table.get("seed", 0)]
    seeds = table.get("seeds", default) if options.seeds is None else _parse_seeds(options.seeds)
    # An own seed may be changed with --set, several seeds may not.
    own_seed = options.seeds is None and "seeds" not in table
    return Axes(grid, listed, _check_seeds(seeds), own_seed)


def check_overrides(overrides: Sequence[str], found: Axes) -> None:
    """Raise `ConfigError` for a `--set` whose key the axes set in every run."""
    varied = {*found.grid, *(path for point in found.listed for path in point.settings)}
    for override in overrides:
        path = tuple(experiments.split_key(override.partition("=")[0]))
        if path == ("seed",) and not found.own_seed:
            seeds = ", ".join(map(str, found.seeds))
            raise ConfigError(
                f"--set {override!r} has no effect: the runs have the seeds {seeds}; "
                f"use --set 'seeds=[{override.partition('=')[2]}]' for that seed, or leave it out"
            )
        # A sweep of a whole section also sets the keys inside it.
        if above := next((other for other in varied if path[: len(other)] == other), None):
            key = format_key(above)
            raise ConfigError(
                f"--set {override!r} has no effect: the sweep sets {key} in every run; "
                f"leave out --set, or remove {key} from the sweep or the list"
            )


def _read_table(section: object, origin: str) -> dict[KeyPath, tuple[object, ...]]:
    if not isinstance(section, Mapping):
        raise ConfigError(f"{origin}: [sweep] must be a section of KEY = [values], not {section!r}")
    grid = {}
    for path, values in _walk_leaves(section):
        if not isinstance(values, list):
            raise ConfigError(
                f"{origin}: sweep.{format_key(path)} = {values!r} is not a list; "
                "write the values in [ ]"
            )
        grid[path] = tuple(values)
    return grid


def _parse_option(text: str) -> tuple[KeyPath, tuple[object, ...]]:
    key, equals, values = text.partition("=")
    path = tuple(experiments.split_key(key))
    if not equals or not all(path):
        raise ConfigError(f"--grid {text!r} is not of the form KEY=v1,v2, e.g. datasets.w=0.2,0.5")
    if not values.strip():
        return path, ()
    # TOML values, so that quotes and lists work; else plain words such as gsm8k,math.
    try:
        return path, tuple(tomllib.loads(f"values = [{values}]")["values"])
    except tomllib.TOMLDecodeError:
        return path, tuple(experiments.parse_value(value.strip()) for value in values.split(","))


def _check_values(path: KeyPath, values: Sequence[object]) -> None:
    key = format_key(path)
    if path in _FORBIDDEN_KEYS:
        raise ConfigError(f"{key} cannot be in a grid: {_FORBIDDEN_KEYS[path]}")
    if not values:
        raise ConfigError(f"the grid has no value for {key}; write {key}=v1,v2 or leave it out")
    # Values may be lists or tables, which cannot be put into a set.
    written = [json.dumps(value, sort_keys=True, default=str) for value in values]
    if len(set(written)) < len(written):
        twice = next(text for text in written if written.count(text) > 1)
        raise ConfigError(f"the grid has {key} = {twice} twice; leave one out")


def _read_list(file: Path) -> tuple[SweepPoint, ...]:
    """One point per line: a JSON object of settings by their keys, with an optional `name`."""
    try:
        lines = read_text(file).splitlines()
    except ValueError as error:
        raise ConfigError(f"--list: {error}") from error
    points: dict[str, SweepPoint] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        point = _parse_line(line, f"{file}, line {number}")
        if point.name in points:
            raise ConfigError(
                f"{file}, line {number}: {point.name!r} appears twice; give one of them another "
                '"name", or remove it'
            )
        points[point.name] = point
    if not points:
        raise ConfigError(
            f"--list {str(file)!r} is empty; write one JSON object of settings per line"
        )
    return tuple(points.values())


def _parse_line(line: str, place: str) -> SweepPoint:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place}: broken JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f'{place}: not a JSON object of settings, e.g. {{"society.agents": 5}}')
    name = found.pop("name", None)
    settings: dict[KeyPath, object] = dict(_walk_leaves(found))
    for path in settings:
        if path in _FORBIDDEN_KEYS:
            raise ConfigError(f"{place}: {format_key(path)}: {_FORBIDDEN_KEYS[path]}")
    if name is None:
        name = name_point(settings) or "as-is"
    if not isinstance(name, str) or is_unsafe(name):
        raise ConfigError(f"{place}: name {name!r} is not usable: letters, digits, '.', '_', '-'")
    return SweepPoint(name, settings)


def _walk_leaves(section: Mapping[str, Any], above: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    for key, value in section.items():
        # JSON must quote "society.agents", which means the dotted key and not a key with a dot.
        path = (*above, key) if above else tuple(experiments.split_key(key))
        if isinstance(value, Mapping) and value:
            yield from _walk_leaves(value, path)
        else:
            yield path, value


def _parse_seeds(text: str) -> object:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--seeds {text!r} is not a list of numbers such as 0,1,2") from None


def _check_seeds(seeds: object) -> tuple[int, ...]:
    whole = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not isinstance(seeds, list) or not whole:
        raise ConfigError(f"seeds = {seeds!r} is not a list of whole numbers such as [0, 1, 2]")
    if not seeds:
        raise ConfigError("seeds is empty; name at least one, e.g. seeds = [0, 1, 2]")
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds = {seeds!r} has a seed twice; remove one")
    return tuple(seeds)


KeyPath = tuple[str, ...]
"""The parts of a key: ("society", "agents")."""
Settings = Mapping[KeyPath, object]

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
# File systems allow 255 bytes, but a run's name has to be typed, and its sweep's comes first.
_LONGEST_VALUE = 24
_LONGEST_POINT = 40


def format_key(path: KeyPath) -> str:
    """A key as it is written in TOML."""
    return ".".join(part if _BARE.fullmatch(part) else json.dumps(part) for part in path)


def name_point(settings: Settings) -> str:
    """Such as "agents-5_w-0.3"; empty if nothing is set."""
    # The last part of a key is enough, unless two keys end alike.
    last = [path[-1] for path in settings]
    parts = []
    for path, value in settings.items():
        key = path[-1] if last.count(path[-1]) == 1 else "-".join(path)
        parts.append(f"{_slug(key)}-{_slug(value)}")
    name = "_".join(parts)
    return name if len(name) <= _LONGEST_POINT else f"p-{_hash(to_canonical_json(settings), 10)}"


def name_member(point: str, seed: int) -> str:
    """The part of a run's name that follows the sweep's name."""
    return f"{point}.seed-{seed}" if point else f"seed-{seed}"


def to_canonical_json(settings: Settings) -> str:
    """Text that is equal for equal settings, in any order."""
    return json.dumps({format_key(path): value for path, value in settings.items()}, sort_keys=True)


def is_unsafe(name: str) -> bool:
    """Whether a name cannot be part of a run's name."""
    return not name or bool(_UNSAFE.search(name)) or not name[0].isalnum()


def _slug(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    safe = _UNSAFE.sub("-", text).strip("-.")[:_LONGEST_VALUE]
    # Two values must not get one name after unsafe characters are replaced: add a hash.
    return safe if safe == text else f"{safe}-{_hash(text, 6)}".strip("-")


def _hash(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]
