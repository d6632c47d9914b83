"""A sweep before anything runs: its members, each with the whole experiment it will run."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from society.config import load as experiments
from society.config.load import ConfigError
from society.config.schema import Config
from society.method.experiment import Experiment, resolve
from society.runs import folder as folders
from society.runs.folder import RunFolder
from society.sweeps import axes, naming
from society.sweeps.axes import Axes, Point, Source

_MOST = 1000


@dataclass(frozen=True, slots=True)
class Member:
    """One run of a sweep. `point` is the name its settings share over the seeds."""

    folder: RunFolder
    point: Point
    seed: int
    experiment: Experiment

    @property
    def config(self) -> Config:
        return self.experiment.config

    @property
    def short(self) -> str:
        """Its name within the sweep."""
        return naming.member_name(self.point.name, self.seed)


@dataclass(frozen=True, slots=True)
class Sweep:
    """All members, those of a point next to each other; `folder` is the sweep's own."""

    folder: RunFolder
    members: tuple[Member, ...]

    def representatives(self) -> list[Member]:
        """One member of every point."""
        return list({member.point.name: member for member in reversed(self.members)}.values())[::-1]


def load(source: Source, runs: Path, name: str) -> Sweep:
    """The sweep that `source` describes, called `name` under `runs`.

    Every point's experiment is checked in full. Raises `ConfigError`.
    """
    folder = folders.folder(runs, name)
    table, origin = experiments.read_table(source.experiment, source.overrides)
    found = axes.read(table, source.options, origin)
    axes.require_effect(source.overrides, found)
    members = tuple(_members(folder, runs, table, found, origin))
    _require_different(members)
    return Sweep(folder, members)


def _members(
    folder: RunFolder, runs: Path, base: dict[str, Any], found: Axes, origin: str
) -> Iterator[Member]:
    count = 0
    for point in found.points():
        experiment = _experiment(base, point, found.seeds[0], origin)
        for seed in found.seeds:
            count += 1
            if count > _MOST:
                raise ConfigError(f"the sweep has more than {_MOST} runs; take fewer values")
            name = f"{folder.name}.{naming.member_name(point.name, seed)}"
            # The seed decides neither the questions nor whether an experiment is a valid one.
            config = experiment.config.model_copy(update={"seed": seed})
            seeded = replace(experiment, config=config)
            yield Member(folders.folder(runs, name), point, seed, seeded)


def _experiment(base: dict[str, Any], point: Point, seed: int, origin: str) -> Experiment:
    table = copy.deepcopy(base)
    shown = ", ".join(f"{naming.dotted(p)} = {value!r}" for p, value in point.settings.items())
    where = f"{origin} with {shown}" if shown else origin
    for path, value in point.settings.items():
        experiments.set_key(table, path, value, where)
    return resolve(experiments.build_config({**table, "seed": seed}, where), where)


def _require_different(members: tuple[Member, ...]) -> None:
    by_config: dict[str, Member] = {}
    by_name: dict[str, Member] = {}
    for member in members:
        twin = by_config.setdefault(member.config.to_json(), member)
        if twin is not member:
            raise ConfigError(
                f"{twin.short} and {member.short} are the same experiment; leave one of them out"
            )
        if by_name.setdefault(member.folder.name, member) is not member:
            raise ConfigError(
                f"two runs of the sweep are called {member.short}; give the lines of --list names"
            )
