"""What a sweep consists of: its members before anything runs, and `sweep.json`.

The file names the runs of the sweep. A run stays in it when the sweep is started again with fewer
values.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from society.config import load as experiments
from society.config.load import ConfigError
from society.config.schema import Config
from society.method.experiment import Experiment, resolve
from society.runs import folder as folders
from society.runs.folder import RunFolder
from society.runs.sweep_record import MemberRecord, SweepRecord, read_record
from society.sweeps import axes
from society.sweeps.axes import Axes, SweepPoint, SweepSource

# Each member is checked before anything runs; more members would take minutes.
_MOST = 1000


@dataclass(frozen=True, slots=True)
class Member:
    """One run of a sweep. Runs of the same `point` differ in their seeds only."""

    folder: RunFolder
    point: SweepPoint
    seed: int
    experiment: Experiment

    @property
    def config(self) -> Config:
        return self.experiment.config

    @property
    def short(self) -> str:
        """Its name within the sweep."""
        return axes.name_member(self.point.name, self.seed)


@dataclass(frozen=True, slots=True)
class Sweep:
    """All members, ordered by point; `folder` is the sweep's own."""

    folder: RunFolder
    members: tuple[Member, ...]

    def representatives(self) -> list[Member]:
        """One member of every point."""
        return choose_representatives(self.members)


def choose_representatives(members: Sequence[Member]) -> list[Member]:
    """One of the members of every point: its seeds need the same models and the same disk."""
    return list({member.point.name: member for member in reversed(members)}.values())[::-1]


def load_sweep(source: SweepSource, runs: Path, name: str) -> Sweep:
    """The sweep that `source` describes, called `name` under `runs`.

    Every point's experiment is checked in full. Raises `ConfigError`.

        source = SweepSource("demo", options=SweepOptions(grid=["datasets.w=0.2,0.5"]))
        load_sweep(source, Path("runs"), "w").members
    """
    folder = folders.locate_run(runs, name)
    table, origin = experiments.read_table(source.experiment, source.overrides)
    found = axes.read_axes(table, source.options, origin)
    axes.check_overrides(source.overrides, found)
    members = tuple(_build_members(folder, runs, table, found, origin))
    _check_distinct(members)
    return Sweep(folder, members)


def _build_members(
    folder: RunFolder, runs: Path, base: dict[str, Any], found: Axes, origin: str
) -> Iterator[Member]:
    count = 0
    for point in found.points():
        experiment = _build_experiment(base, point, found.seeds[0], origin)
        for seed in found.seeds:
            count += 1
            if count > _MOST:
                raise ConfigError(f"the sweep has more than {_MOST} runs; use fewer values")
            name = f"{folder.name}.{axes.name_member(point.name, seed)}"
            # The seed decides neither the questions nor whether an experiment is a valid one.
            config = experiment.config.model_copy(update={"seed": seed})
            seeded = replace(experiment, config=config)
            yield Member(folders.locate_run(runs, name), point, seed, seeded)


def _build_experiment(
    base: dict[str, Any], point: SweepPoint, seed: int, origin: str
) -> Experiment:
    # Points share the parsed file, and setting a key changes it in place.
    table = copy.deepcopy(base)
    shown = ", ".join(f"{axes.format_key(p)} = {value!r}" for p, value in point.settings.items())
    where = f"{origin} with {shown}" if shown else origin
    for path, value in point.settings.items():
        experiments.set_key(table, path, value, where)
    return resolve(experiments.build_config({**table, "seed": seed}, where), where)


def _check_distinct(members: tuple[Member, ...]) -> None:
    by_config: dict[str, Member] = {}
    by_name: dict[str, Member] = {}
    for member in members:
        # Two names for one experiment would waste a run and count its seed twice.
        twin = by_config.setdefault(member.config.to_json(), member)
        if twin is not member:
            raise ConfigError(
                f"{twin.short} and {member.short} are the same experiment; remove one of them"
            )
        if by_name.setdefault(member.folder.name, member) is not member:
            raise ConfigError(
                f"two runs of the sweep are named {member.short}; give the lines of --list names"
            )


def record_sweep(sweep: Sweep, experiment: str) -> SweepRecord:
    """The record of a sweep."""
    return SweepRecord(
        experiment=experiment,
        members=[
            MemberRecord(
                run=member.folder.name,
                point=member.point.name,
                seed=member.seed,
                settings={axes.format_key(p): value for p, value in member.point.settings.items()},
            )
            for member in sweep.members
        ],
    )


def list_members(folder: RunFolder) -> list[RunFolder]:
    """The runs of the sweep in a folder; none if it is not a sweep's or cannot be read."""
    try:
        found = read_record(folder)
    except ConfigError:
        return []
    return [] if found is None else found.folders(folder.path.parent)


def find_runs(runs: Path, name: str) -> list[RunFolder]:
    """The run called `name`, or those runs of the sweep called `name` that have started.

    Raises `ConfigError` if there is none, and what `society.runs.folder.find_run` raises.
    """
    folder = folders.locate_run(runs, name)
    record = read_record(folder)
    if record is None:
        return [folders.find_run(runs, name)]
    started = [run.name for run in record.folders(runs) if run.database.is_file()]
    if not started:
        raise ConfigError(f"no run of the sweep {name!r} has started yet")
    return [folders.find_run(runs, each) for each in started]


def merge_records(earlier: SweepRecord | None, now: SweepRecord) -> SweepRecord:
    """Both records in one. Raises `ConfigError` if a run was recorded with other settings."""
    if earlier is None:
        return now
    # A run is found again by its name, so a name must not change its meaning.
    known = {member.run: member for member in earlier.members}
    for member in now.members:
        before = known.get(member.run, member)
        if before != member:
            raise ConfigError(
                f"{member.run} is in the sweep with the settings {dict(before.settings)}, now they "
                f"are {dict(member.settings)}; give the point, or the sweep, another name"
            )
        known[member.run] = member
    fresh = [member for member in now.members if member not in earlier.members]
    return SweepRecord(experiment=now.experiment, members=[*earlier.members, *fresh])


def write_record(folder: RunFolder, record: SweepRecord) -> None:
    """Write the record atomically."""
    folder.path.mkdir(parents=True, exist_ok=True)
    # A crash while writing must not cost the list of runs.
    draft = folder.sweep.with_suffix(".part")
    draft.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    os.replace(draft, folder.sweep)
