"""The runs of a folder: what each one is, and how far it has come or why it cannot be read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from evals.choices import find_society
from evals.intervals import Rate, wilson
from evals.stored_run import choose_main_arm, read_arms
from society.config.load import ConfigError
from society.runs import folder as folders
from society.runs.folder import RunFolder
from society.runs.listing import RunState, explain_error, read_notice_line
from society.view.debate import NotFound
from society.view.debate_list import DEBATES
from store.errors import StoreLocked
from store.reader import Reader


@dataclass(frozen=True, slots=True)
class LastAccuracy:
    """The main arm's society, chosen or newest: accuracy of its last vote."""

    arm: str
    iteration: int
    decoding: str
    accuracy: Rate


@dataclass(frozen=True, slots=True)
class LastAgreement:
    """The same society, if no gold is known: how many of its readable answers agree, 0 to 1."""

    arm: str
    iteration: int
    decoding: str
    share: float | None


@dataclass(frozen=True, slots=True)
class RunEntry:
    """One run. `note` says what a running process is doing, or why a run cannot be read."""

    name: str
    state: RunState
    created_at: datetime | None = None
    finished_at: datetime | None = None
    task: str | None = None
    model: str | None = None
    iterations: int | None = None
    arms: tuple[str, ...] = ()
    last: LastAccuracy | None = None
    agreed: LastAgreement | None = None
    note: str | None = None


class Library:
    """The runs that are shown: all of a folder, or the named ones of it."""

    def __init__(self, runs: Path, names: Sequence[str] = ()) -> None:
        """Raises `ConfigError` for a name that is not a run."""
        self.runs = runs
        self._names = tuple(names)
        for name in names:
            self._require(name)

    @property
    def names(self) -> tuple[str, ...]:
        """The runs that were named, none if all are shown."""
        return self._names

    def folders(self) -> list[RunFolder]:
        """The runs by name; the folder is listed anew each time."""
        if self._names:
            return [RunFolder(name, self.runs / name) for name in self._names]
        return [
            RunFolder(path.parent.name, path.parent)
            for path in sorted(self.runs.glob("*/run.duckdb"))
        ]

    def folder(self, name: str) -> RunFolder:
        """One run; raises `NotFound` for a name that is not in the list, such as a path."""
        for folder in self.folders():
            if folder.name == name:
                return folder
        raise NotFound(f"no run {name!r}")

    def include(self, name: str) -> None:
        """Show one more run; raises `ConfigError` for a name that is not a run."""
        self._require(name)
        if self._names and name not in self._names:
            self._names = (*self._names, name)

    def _require(self, name: str) -> None:
        if not folders.locate_run(self.runs, name).database.is_file():
            there = ", ".join(sorted(p.parent.name for p in self.runs.glob("*/run.duckdb")))
            raise ConfigError(f"no run {name!r} in {self.runs}/ (runs there: {there or 'none'})")


def read_entry(reader: Reader, folder: RunFolder) -> RunEntry:
    """What the list says about a run that can be read."""
    found = reader.rows("SELECT created_at, finished_at, config::VARCHAR FROM runs")
    if not found:
        return RunEntry(folder.name, "empty", note="holds no run yet")
    created_at, finished_at, config = found[0]
    settings = json.loads(config)
    arms = read_arms(reader)
    main = choose_main_arm(arms).name
    iteration = find_society(reader, main)
    last = _read_last_accuracy(reader, main, iteration)
    # Running goes first: a run that is started again may still hold its earlier end.
    state: RunState = (
        "running" if reader.running else "stopped" if finished_at is None else "finished"
    )
    return RunEntry(
        folder.name,
        state,
        created_at,
        finished_at if state == "finished" else None,
        settings.get("task", {}).get("name"),
        settings.get("model"),
        settings.get("iterations"),
        tuple(arm.name for arm in arms),
        last,
        None if last else _read_last_agreement(reader, main, iteration),
        read_notice_line(folder) if state == "running" else None,
    )


def build_unreadable_entry(folder: RunFolder, error: Exception) -> RunEntry:
    """What the list says about a run that cannot be read, and why."""
    if isinstance(error, StoreLocked):
        # A locked file belongs to a process that writes: that is a running run, not a broken one.
        return RunEntry(folder.name, "running", note=read_notice_line(folder) or str(error))
    return RunEntry(folder.name, "unreadable", note=explain_error(folder, error))


def _read_last_agreement(reader: Reader, arm: str, iteration: int) -> LastAgreement | None:
    found = reader.rows(
        """
        SELECT iteration, decoding, mean_share
        FROM consensus SEMI JOIN (SELECT task FROM questions WHERE NOT is_extra) USING (task)
        WHERE arm = $arm AND split = 'eval' AND iteration = $iteration
        ORDER BY decoding = 'greedy', round DESC LIMIT 1
        """,
        {"arm": arm, "iteration": iteration},
    )
    return LastAgreement(arm, *found[0]) if found else None


# `DEBATES` reads `votes`: the CTE of that name narrows it to one arm and iteration before any join.
# False sorts first, so sampled debates go before greedy ones.
def _read_last_accuracy(reader: Reader, arm: str, iteration: int) -> LastAccuracy | None:
    found = reader.rows(
        f"""
        WITH votes AS (
            SELECT v.* FROM main.votes AS v
            WHERE arm = $arm AND split = 'eval' AND iteration = $iteration
        )
        SELECT iteration, decoding, avg(correct::INTEGER), count(correct)
        FROM {DEBATES} SEMI JOIN (FROM questions WHERE NOT is_extra) USING (question_id)
        GROUP BY iteration, decoding HAVING count(correct) > 0
        ORDER BY (decoding = 'greedy') LIMIT 1
        """,
        {"arm": arm, "iteration": iteration},
    )
    if not found:
        return None
    iteration, decoding, share, total = found[0]
    return LastAccuracy(arm, iteration, decoding, Rate(share, *wilson(share, total), total))
