"""What a sweep varies, as the user writes it: `--grid`, `--list`, `--seeds`, or keys of the file.

seeds = [0, 1, 2]

[sweep]                      # every combination of
datasets.w = [0.2, 0.5]
society.agents = [3, 5]
"""

from __future__ import annotations

import itertools
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.tasks.sources.text import read_text
from society.config import load as experiments
from society.config.load import ConfigError
from society.sweeps import naming
from society.sweeps.naming import Settings

_NOT_HERE = {
    ("seed",): "the seeds are those of --seeds, or of seeds = [0, 1, 2] in the file",
    ("seeds",): "the seeds are those of --seeds, or of seeds = [0, 1, 2] in the file",
    ("sweep",): "a sweep has no sweeps in it",
}


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says: "KEY=v1,v2" each, a .jsonl file, "0,1,2"."""

    grid: Sequence[str] = ()
    listed: Path | None = None
    seeds: str | None = None

    def __bool__(self) -> bool:
        return bool(self.grid or self.listed is not None or self.seeds is not None)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a sweep is described: an experiment, its `--set` overrides, the command line's axes."""

    experiment: str
    overrides: Sequence[str] = ()
    options: Options = Options()

    def several(self) -> bool:
        """Whether it is a sweep at all. Raises `ConfigError` where the file cannot be read."""
        if self.options:
            return True
        table, _ = experiments.read_table(self.experiment, self.overrides)
        return any(key in table for key in experiments.SWEEP_KEYS)


@dataclass(frozen=True, slots=True)
class Point:
    """One combination of settings; all of its runs differ in their seed only."""

    name: str
    settings: Settings


@dataclass(frozen=True, slots=True)
class Axes:
    """Every combination of a line of `listed` and a value for each key of `grid`, times `seeds`.

    `own_seed`: the only seed is the experiment's own, since nothing names several.
    """

    grid: Mapping[naming.Path, tuple[object, ...]]
    listed: tuple[Point, ...]
    seeds: tuple[int, ...]
    own_seed: bool = False

    def points(self) -> Iterator[Point]:
        """All combinations, the last key varying fastest."""
        for given in self.listed or (Point("", {}),):
            for values in itertools.product(*self.grid.values()):
                varied = dict(zip(self.grid, values, strict=True))
                if both := varied.keys() & given.settings.keys():
                    key = naming.dotted(min(both))
                    raise ConfigError(f"{key} is in the grid and in the list; leave one out")
                name = "_".join(filter(None, (given.name, naming.point_name(varied))))
                yield Point(name, {**given.settings, **varied})


def read(table: Mapping[str, Any], options: Options, origin: str) -> Axes:
    """The axes of an experiment's parsed file; the command line comes first, key by key.

    Raises `ConfigError` that names the value and the remedy.
    """
    grid = _from_table(table.get("sweep", {}), origin)
    given: dict[naming.Path, tuple[object, ...]] = {}
    for text in options.grid:
        path, values = _from_option(text)
        if path in given:
            raise ConfigError(f"--grid names {naming.dotted(path)} twice; give all its values once")
        given[path] = values
    grid |= given
    for path, values in grid.items():
        _require_values(path, values)
    listed = () if options.listed is None else _from_file(options.listed)
    default = [table.get("seed", 0)]
    seeds = table.get("seeds", default) if options.seeds is None else _seeds(options.seeds)
    own_seed = options.seeds is None and "seeds" not in table
    return Axes(grid, listed, _checked_seeds(seeds), own_seed)


def require_effect(overrides: Sequence[str], found: Axes) -> None:
    """Raise `ConfigError` for a `--set` whose key the axes set themselves, in every run."""
    varied = {*found.grid, *(path for point in found.listed for path in point.settings)}
    for override in overrides:
        path = tuple(experiments.split_key(override.partition("=")[0]))
        if path == ("seed",) and not found.own_seed:
            seeds = ", ".join(map(str, found.seeds))
            raise ConfigError(
                f"--set {override!r} has no effect: the runs have the seeds {seeds}; "
                f"set --set 'seeds=[{override.partition('=')[2]}]' for that one, or leave it out"
            )
        if above := next((other for other in varied if path[: len(other)] == other), None):
            key = naming.dotted(above)
            raise ConfigError(
                f"--set {override!r} has no effect: every run takes its {key} from the sweep; "
                f"leave --set out, or take {key} out of the sweep or the list"
            )


def _from_table(section: object, origin: str) -> dict[naming.Path, tuple[object, ...]]:
    if not isinstance(section, Mapping):
        raise ConfigError(f"{origin}: [sweep] is a section of KEY = [values], not {section!r}")
    grid = {}
    for path, values in _leaves(section):
        if not isinstance(values, list):
            raise ConfigError(
                f"{origin}: sweep.{naming.dotted(path)} = {values!r} is not a list; "
                "write the values to try in [ ]"
            )
        grid[path] = tuple(values)
    return grid


def _from_option(text: str) -> tuple[naming.Path, tuple[object, ...]]:
    key, equals, values = text.partition("=")
    path = tuple(experiments.split_key(key))
    if not equals or not all(path):
        raise ConfigError(f"--grid {text!r} is not of the form KEY=v1,v2, e.g. datasets.w=0.2,0.5")
    if not values.strip():
        return path, ()
    try:
        return path, tuple(tomllib.loads(f"values = [{values}]")["values"])
    except tomllib.TOMLDecodeError:
        return path, tuple(experiments.parse_value(value.strip()) for value in values.split(","))


def _require_values(path: naming.Path, values: Sequence[object]) -> None:
    key = naming.dotted(path)
    if path in _NOT_HERE:
        raise ConfigError(f"{key} cannot be in a grid: {_NOT_HERE[path]}")
    if not values:
        raise ConfigError(f"the grid has no value for {key}; write {key}=v1,v2 or leave it out")
    written = [json.dumps(value, sort_keys=True, default=str) for value in values]
    if len(set(written)) < len(written):
        twice = next(text for text in written if written.count(text) > 1)
        raise ConfigError(f"the grid has {key} = {twice} twice; leave one out")


def _from_file(file: Path) -> tuple[Point, ...]:
    """One point a line: a JSON object of settings by their keys, and perhaps a `name`."""
    try:
        lines = read_text(file).splitlines()
    except ValueError as error:
        raise ConfigError(f"--list: {error}") from error
    points: dict[str, Point] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        point = _from_line(line, f"{file}, line {number}")
        if point.name in points:
            raise ConfigError(
                f"{file}, line {number}: {point.name!r} is there twice; give one of them another "
                '"name", or leave it out'
            )
        points[point.name] = point
    if not points:
        raise ConfigError(f"--list {str(file)!r} has no line; write a JSON object of settings each")
    return tuple(points.values())


def _from_line(line: str, place: str) -> Point:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place}: broken JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f'{place}: not a JSON object of settings, e.g. {{"society.agents": 5}}')
    name = found.pop("name", None)
    settings: dict[naming.Path, object] = dict(_leaves(found))
    for path in settings:
        if path in _NOT_HERE:
            raise ConfigError(f"{place}: {naming.dotted(path)}: {_NOT_HERE[path]}")
    if name is None:
        name = naming.point_name(settings) or "as-is"
    if not isinstance(name, str) or naming.unsafe(name):
        raise ConfigError(f"{place}: name {name!r} is not usable: letters, digits, '.', '_', '-'")
    return Point(name, settings)


def _leaves(
    section: Mapping[str, Any], above: naming.Path = ()
) -> Iterator[tuple[naming.Path, Any]]:
    for key, value in section.items():
        # What is quoted at the top, as JSON must, is a dotted key all the same.
        path = (*above, key) if above else tuple(experiments.split_key(key))
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, path)
        else:
            yield path, value


def _seeds(text: str) -> object:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--seeds {text!r} is not a list of numbers such as 0,1,2") from None


def _checked_seeds(seeds: object) -> tuple[int, ...]:
    whole = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not isinstance(seeds, list) or not whole:
        raise ConfigError(f"seeds = {seeds!r} is not a list of whole numbers such as [0, 1, 2]")
    if not seeds:
        raise ConfigError("seeds is empty; name at least one, e.g. seeds = [0, 1, 2]")
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds = {seeds!r} names one twice; leave it out")
    return tuple(seeds)
