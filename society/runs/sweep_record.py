"""`sweep.json`: which runs belong to a sweep, which point each of them is, and its seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from society.config.load import ConfigError
from society.runs import folder as folders
from society.runs.folder import RunFolder


class MemberRecord(BaseModel):
    """One run: the name of its folder, the name of its point, and its seed.

    The point's name is "" if only the seed varies. `settings` has what the point sets, by dotted
    key.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    point: str
    seed: int
    settings: Mapping[str, Any]


class SweepRecord(BaseModel):
    """The content of `sweep.json`. `experiment` is the file or packaged name of the first start."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    experiment: str
    members: Sequence[MemberRecord]

    def folders(self, runs: Path) -> list[RunFolder]:
        """The folder of every run, whether it has started or not."""
        return [folders.locate_run(runs, member.run) for member in self.members]


def read_record(folder: RunFolder) -> SweepRecord | None:
    """The record in a folder, None if the folder is not a sweep's. Raises `ConfigError`."""
    if not folder.sweep.is_file():
        return None
    try:
        return SweepRecord.model_validate_json(folder.sweep.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise ConfigError(
            f"{folder.sweep} cannot be read: {error}\nremove it and start the sweep again, which "
            "finds its runs by their names"
        ) from error
