"""The runs of a folder in short: how far each is, its best accuracy, its cost, its size on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, TextIO

from evals import choices, metrics
from evals.intervals import Rate, rate
from evals.stored_run import find_main_arm
from society.config.load import ConfigError
from society.costs.budget import read_spending
from society.runs.folder import RunFolder
from society.runs.status import read_progress
from society.runs.summary import format_percent
from society.runs.sweep_record import read_record
from society.terminal.duration import format_duration
from society.terminal.output import one_line, write_line
from society.terminal.size import format_size
from society.terminal.table import write_rows
from store.errors import StoreError, StoreLocked, StoreNewer, StoreOutdated
from store.ledger import Store
from store.records import Decoding

RunState = Literal["running", "finished", "stopped", "empty", "unreadable"]

_COLUMNS = ("run", "state", "task", "iteration", "best vote, %", "after", "USD", "size", "models")


@dataclass(frozen=True, slots=True)
class BestSociety:
    """The society of a run's main arm whose last vote is right most often, and how often.

    It is the best of several on the very questions that it was picked by, so its accuracy flatters.
    """

    arm: str
    iteration: int
    decoding: Decoding
    accuracy: Rate


@dataclass(frozen=True, slots=True)
class RunLine:
    """One run in short. `note` says what a running process is doing, or why a run is not read.

    `iteration` is the last one that the main arm has evaluated, of `iterations`; `best` is None
    without gold. `usd` is what is known to be spent, to which `unpriced` calls and jobs would add;
    `bytes` is the size of the run's whole folder, `model_bytes` that of its tuned models.
    """

    name: str
    state: RunState
    bytes: int
    model_bytes: int
    task: str | None = None
    model: str | None = None
    created_at: datetime | None = None
    finished_at: datetime | None = None
    iteration: int | None = None
    iterations: int | None = None
    best: BestSociety | None = None
    usd: float | None = None
    unpriced: int = 0
    note: str | None = None


def list_runs(runs: Path) -> list[RunLine]:
    """Every run of the folder by name; one that cannot be read is listed with the reason.

    list_runs(Path("runs"))[0].best
    """
    return [
        read_line(RunFolder(path.parent.name, path.parent))
        for path in sorted(runs.glob("*/run.duckdb"))
    ]


def read_line(folder: RunFolder) -> RunLine:
    """What the list says of one run."""
    size, models = measure_size(folder.path), measure_size(folder.models)
    try:
        with Store.open(folder.database, read_only=True) as store:
            return _read_stored(store, folder, size, models)
    except StoreLocked as error:
        # A locked file belongs to a process that writes: that is a running run, not a broken one.
        note = read_notice_line(folder) or str(error)
        return RunLine(folder.name, "running", size, models, note=note)
    except (StoreError, ValueError, KeyError) as error:
        # One run that is broken or of another version must not hide the others.
        return RunLine(folder.name, "unreadable", size, models, note=explain_error(folder, error))


def list_sweeps(runs: Path) -> dict[str, list[str]]:
    """The names of the runs of every sweep in the folder, by the sweep's name."""
    found: dict[str, list[str]] = {}
    for path in sorted(runs.glob("*/sweep.json")):
        try:
            record = read_record(RunFolder(path.parent.name, path.parent))
        except ConfigError:
            continue
        if record is not None:
            found[path.parent.name] = [member.run for member in record.members]
    return found


def show_runs(lines: list[RunLine], sweeps: dict[str, list[str]], stream: TextIO) -> None:
    """Print the runs as a table, then their notes and the sweeps."""
    write_rows(_COLUMNS, [_format_line(line) for line in lines], "table", stream)
    for line in lines:
        if line.note is not None:
            write_line(stream, f"{line.name}: {one_line(line.note)}")
    for name, members in sweeps.items():
        write_line(stream, f"sweep {name}: {len(members)} runs")


def measure_size(path: Path) -> int:
    """Bytes of all files in a folder; what vanishes meanwhile counts nothing."""
    total = 0
    for file in path.rglob("*"):
        try:
            # A link to a model elsewhere takes no room here.
            total += file.lstat().st_size if file.is_file() and not file.is_symlink() else 0
        except OSError:
            continue
    return total


def explain_error(folder: RunFolder, error: Exception) -> str:
    """Why a run cannot be read, with the remedy."""
    if isinstance(error, StoreOutdated):
        where = "" if folder.path.parent == Path("runs") else f" --runs {folder.path.parent}"
        return (
            "written by an earlier version of this software; "
            f"`society status {folder.name}{where}` brings it up to date"
        )
    if isinstance(error, StoreNewer):
        return "written by a newer version of this software; upgrade to read it"
    if isinstance(error, StoreError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def read_notice_line(folder: RunFolder) -> str | None:
    """What the process that has the run says of its progress; None if it says nothing."""
    said = read_progress(folder)
    if said is None:
        return None
    age = said.age_s
    return said.line if age < 10 else f"{said.line} ({format_duration(age)} ago)"


def _read_stored(store: Store, folder: RunFolder, size: int, models: int) -> RunLine:
    run = store.run()
    if run is None:
        return RunLine(folder.name, "empty", size, models, note="holds no run yet")
    settings = json.loads(run.config)
    arm = find_main_arm(store)
    evaluated = choices.list_evaluated(store, arm)
    # Adds up a few columns of all turns, which takes a moment in a column store.
    spending = read_spending(store)
    # Running goes first: a run that is started again may still hold its earlier end.
    state: RunState = "finished" if run.finished_at is not None else "stopped"
    return RunLine(
        folder.name,
        "running" if store.running else state,
        size,
        models,
        settings.get("task", {}).get("name"),
        settings.get("model"),
        run.created_at,
        None if store.running else run.finished_at,
        max(evaluated, default=None),
        settings.get("iterations"),
        _find_best(store, arm, evaluated),
        spending.usd,
        spending.unknown,
        read_notice_line(folder) if store.running else None,
    )


def _find_best(store: Store, arm: str, evaluated: list[int]) -> BestSociety | None:
    for decoding in metrics.DECODINGS:
        found = [
            BestSociety(arm, iteration, decoding, rate(list(right.values())))
            for iteration in evaluated
            if (right := metrics.read_by_question(store, "consensus", decoding, iteration, arm))
        ]
        if found:
            # Of equals the earliest: what came later has cost more and brought nothing.
            return max(found, key=lambda each: (each.accuracy.value, -each.iteration))
    return None


def _format_line(line: RunLine) -> tuple[object, ...]:
    best = line.best
    least = "≥ " if line.unpriced else ""
    return (
        line.name,
        line.state,
        line.task,
        None if line.iteration is None else f"{line.iteration} of {line.iterations}",
        None if best is None else format_percent(best.accuracy),
        None if best is None else choices.name_society(best.iteration).removeprefix("the "),
        None if line.usd is None else f"{least}{line.usd:.2f}",
        format_size(line.bytes),
        format_size(line.model_bytes),
    )
