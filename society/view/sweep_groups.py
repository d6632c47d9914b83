"""The runs of a sweep together: one row for each point, with its seeds and their mean."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from society.config.load import ConfigError
from society.runs.folder import RunFolder
from society.runs.sweep_record import MemberRecord, SweepRecord, read_record
from society.view.catalog import RunEntry


@dataclass(frozen=True, slots=True)
class SeedEntry:
    """One run of a point; `entry` is None until it has started."""

    seed: int
    run: str
    entry: RunEntry | None


@dataclass(frozen=True, slots=True)
class PointRow:
    """One point: what it sets, its runs, and over these the mean, least and most of the consensus
    (0 to 1), None where no run has one."""

    name: str
    settings: Mapping[str, object]
    seeds: tuple[SeedEntry, ...]
    mean: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class SweepGroup:
    """A sweep with its points. `note` says why its record cannot be read."""

    name: str
    points: tuple[PointRow, ...]
    note: str | None = None

    @property
    def runs(self) -> list[str]:
        """The names of the runs that have started."""
        return [seed.run for point in self.points for seed in point.seeds if seed.entry]


def group_runs(
    runs: Path, entries: Sequence[RunEntry]
) -> tuple[tuple[SweepGroup, ...], tuple[RunEntry, ...]]:
    """The sweeps of a folder that have one of these runs, newest first, and the other runs."""
    groups, left = [], {entry.name: entry for entry in entries}
    for path in sorted(runs.glob("*/sweep.json")):
        try:
            record = read_record(RunFolder(path.parent.name, path.parent))
        except ConfigError as error:
            groups.append(SweepGroup(path.parent.name, (), str(error)))
            continue
        members = [] if record is None else record.members
        if record is not None and any(member.run in left for member in members):
            groups.append(_build_group(path.parent.name, record, left))
            left = {name: entry for name, entry in left.items() if not _has(record, name)}
    place = {entry.name: number for number, entry in enumerate(entries)}
    groups.sort(key=lambda group: min((place[run] for run in group.runs), default=len(place)))
    return tuple(groups), tuple(left.values())


def _has(record: SweepRecord, run: str) -> bool:
    return any(member.run == run for member in record.members)


def _build_group(name: str, record: SweepRecord, entries: Mapping[str, RunEntry]) -> SweepGroup:
    points: defaultdict[str, list[MemberRecord]] = defaultdict(list)
    for member in record.members:
        points[member.point].append(member)
    return SweepGroup(
        name, tuple(_build_point(point, members, entries) for point, members in points.items())
    )


def _build_point(
    name: str, members: Sequence[MemberRecord], entries: Mapping[str, RunEntry]
) -> PointRow:
    seeds = tuple(SeedEntry(m.seed, m.run, entries.get(m.run)) for m in members)
    values = [s.entry.last.accuracy.value for s in seeds if s.entry and s.entry.last]
    spread = (fmean(values), min(values), max(values)) if values else (None, None, None)
    return PointRow(name, members[0].settings, seeds, *spread)
