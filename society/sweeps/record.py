"""`sweep.json`: which runs a sweep is made of. They stay in it when a later start names fewer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from society.config.load import ConfigError
from society.runs import folder as folders
from society.runs.folder import RunFolder
from society.sweeps import naming
from society.sweeps.definition import Sweep


class MemberRecord(BaseModel):
    """One run: the name of its folder, of its point ("" where only the seed varies), its seed.

    `settings` are what the point sets, by dotted key.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    point: str
    seed: int
    settings: Mapping[str, Any]


class SweepRecord(BaseModel):
    """What the file says. `experiment` is the file or packaged name it was started with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    experiment: str
    members: Sequence[MemberRecord]

    def folders(self, runs: Path) -> list[RunFolder]:
        """The folder of every run, whether it has started or not."""
        return [folders.folder(runs, member.run) for member in self.members]


def of(sweep: Sweep, experiment: str) -> SweepRecord:
    """What is to be recorded of a sweep."""
    return SweepRecord(
        experiment=experiment,
        members=[
            MemberRecord(
                run=member.folder.name,
                point=member.point.name,
                seed=member.seed,
                settings={naming.dotted(p): value for p, value in member.point.settings.items()},
            )
            for member in sweep.members
        ],
    )


def read(folder: RunFolder) -> SweepRecord | None:
    """The record in a folder, None where it is none of a sweep. Raises `ConfigError`."""
    if not folder.sweep.is_file():
        return None
    try:
        return SweepRecord.model_validate_json(folder.sweep.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise ConfigError(
            f"{folder.sweep} cannot be read: {error}\nremove it and start the sweep again: its "
            "runs are found by their names"
        ) from error


def members(folder: RunFolder) -> list[RunFolder]:
    """The runs of the sweep in a folder; none where it is no sweep's or cannot be read."""
    try:
        found = read(folder)
    except ConfigError:
        return []
    return [] if found is None else found.folders(folder.path.parent)


def existing(runs: Path, name: str) -> list[RunFolder]:
    """The run called `name`, or those runs of the sweep called `name` that have started.

    Raises `ConfigError` where there is none, and what `society.runs.folder.existing` raises.
    """
    folder = folders.folder(runs, name)
    record = read(folder)
    if record is None:
        return [folders.existing(runs, name)]
    started = [run.name for run in record.folders(runs) if run.database.is_file()]
    if not started:
        raise ConfigError(f"no run of the sweep {name!r} has started yet")
    return [folders.existing(runs, each) for each in started]


def merged(earlier: SweepRecord | None, now: SweepRecord) -> SweepRecord:
    """Both. Raises `ConfigError` where a run was recorded with other settings."""
    if earlier is None:
        return now
    known = {member.run: member for member in earlier.members}
    for member in now.members:
        before = known.get(member.run, member)
        if before != member:
            raise ConfigError(
                f"{member.run} is in the sweep with the settings {dict(before.settings)}, now they "
                f"are {dict(member.settings)}; use another name for these, or another --name"
            )
        known[member.run] = member
    fresh = [member for member in now.members if member not in earlier.members]
    return SweepRecord(experiment=now.experiment, members=[*earlier.members, *fresh])


def write(folder: RunFolder, record: SweepRecord) -> None:
    """Write the record, whole or not at all."""
    folder.path.mkdir(parents=True, exist_ok=True)
    draft = folder.sweep.with_suffix(".part")
    draft.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    os.replace(draft, folder.sweep)
