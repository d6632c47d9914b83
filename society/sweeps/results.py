"""Results of a sweep: accuracy, agreement and unread answers of every point and arm.

Numbers are means over the seeds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal, TextIO

from rich.table import Table

from evals.agreement import read_agreements
from evals.choices import find_choice
from evals.metrics import (
    MEASURES,
    Measure,
    list_extra_tasks,
    read_society_accuracies,
    title_task,
)
from evals.stored_run import list_evaluated_arms
from society.runs import folder as folders
from society.runs.folder import RunFolder
from society.runs.status import read_progress
from society.runs.sweep_record import SweepRecord
from society.terminal.output import Screen, one_line, write_line
from society.terminal.table import make_table, write_rows
from store.errors import StoreError, StoreLocked, StoreMissing
from store.ledger import Store
from store.records import Decoding

Share = Measure | Literal["agree", "tied", "unread", "cut"]
"""Shares of one society, 0..1; the measures need gold answers."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A share (0..1) over the seeds: its mean, the least and the most."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(fmean(values), min(values), max(values))


_VOTES: tuple[Share, ...] = ("agree", "tied", "unread", "cut")
_HEADINGS: dict[Share, str] = {"single": "single agent", "majority": "round-1 majority"}


@dataclass(frozen=True, slots=True)
class SweepResult:
    """One point, arm and decoding: the untuned society, or the last that all seeds have, or the
    one that each seed has chosen by its signs.

    `seeds` is the number of runs. `task` is None for the run's own evaluation questions. `chosen`
    has the iterations that the seeds chose, and is empty in other rows.
    """

    task: str | None
    point: str
    arm: str
    decoding: Decoding
    iteration: int
    seeds: int
    shares: dict[Share, Spread]
    chosen: tuple[int, ...] = ()

    @property
    def society(self) -> str:
        """Which society it is, in a cell."""
        if self.chosen:
            low, high = min(self.chosen), max(self.chosen)
            return f"chosen {low}" if low == high else f"chosen {low}–{high}"
        return "untuned" if self.iteration == 0 else str(self.iteration)


@dataclass(frozen=True, slots=True)
class _SeedShares:
    """The shares of one run by iteration, and the iteration that it has chosen, if it has."""

    by_iteration: dict[int, dict[Share, float]]
    chosen: int | None


def read_results(record: SweepRecord, runs: Path) -> list[SweepResult]:
    """Every result that is stored so far, without runs that cannot be read now."""
    found: defaultdict[tuple[str | None, str, str, Decoding], list[_SeedShares]]
    found = defaultdict(list)
    for member in record.members:
        # Members may be running, locked or missing: the rest still has results.
        try:
            store = Store.open(folders.locate_run(runs, member.run).database, read_only=True)
        except StoreError:
            continue
        try:
            for key, shares in _read_run(store):
                task, arm, decoding = key
                found[task, member.point, arm, decoding].append(shares)
        finally:
            store.close()
    tasks = list(dict.fromkeys(task for task, *_ in found))
    tasks.sort(key=lambda task: (task is not None, task))
    merged = [result for key, runs_ in found.items() for result in _merge_seeds(key, runs_)]
    return sorted(merged, key=lambda result: tasks.index(result.task))


def show_results(record: SweepRecord, runs: Path, stream: TextIO) -> None:
    """Print one table for each task."""
    console = Screen(stream)
    rows = read_results(record, runs)
    if not rows:
        console.print("no evaluation debate is complete yet")
        return
    for task in dict.fromkeys(row.task for row in rows):
        of_task = [row for row in rows if row.task == task]
        about = "Held-out questions" if task is None else one_line(title_task(task))
        over = "in %, mean over seeds, least to most"
        if judged := [row for row in of_task if "consensus" in row.shares]:
            console.draw(_draw_table(judged, MEASURES, f"{about}: accuracy {over}"))
        else:
            missing = f"{about}: accuracy needs gold answers, and there are none"
            console.print(missing, soft_wrap=True)
        console.draw(_draw_table(of_task, _VOTES, f"{about}: votes {over}"))


def _read_run(
    store: Store,
) -> Iterator[tuple[tuple[str | None, str, Decoding], _SeedShares]]:
    for arm in list_evaluated_arms(store):
        choice = find_choice(store, arm)
        for task in (None, *list_extra_tasks(store)):
            by_decoding: defaultdict[Decoding, dict[int, dict[Share, float]]] = defaultdict(dict)
            for voting in read_agreements(store, arm, task):
                shares: dict[Share, float] = {
                    "tied": voting.ties,
                    "unread": voting.unparsed,
                    "cut": voting.truncated,
                }
                if voting.last is not None:
                    shares["agree"] = voting.last
                by_decoding[voting.stage.decoding][voting.stage.iteration] = shares
            for row in read_society_accuracies(store, arm, task):
                for measure in MEASURES:
                    by_decoding[row.decoding][row.iteration][measure] = row.rate(measure).value
            for decoding, found in by_decoding.items():
                yield (task, arm, decoding), _SeedShares(found, choice.chosen if choice else None)


def _merge_seeds(
    key: tuple[str | None, str, str, Decoding], runs: Sequence[_SeedShares]
) -> Iterator[SweepResult]:
    task, point, arm, decoding = key
    # Seeds are compared at the last iteration that all of them have reached.
    for iteration in sorted({0, min(max(run.by_iteration) for run in runs)}):
        those = [run.by_iteration[iteration] for run in runs if iteration in run.by_iteration]
        if those:
            yield SweepResult(
                task, point, arm, decoding, iteration, len(those), _spread_shares(those)
            )
    # Each seed by the society it has chosen itself: that is the one it would be used with.
    picked = [(k, run.by_iteration[k]) for run in runs if (k := run.chosen) in run.by_iteration]
    chosen = tuple(k for k, _ in picked if k is not None)
    if chosen:
        shares = _spread_shares([each for _, each in picked])
        yield SweepResult(task, point, arm, decoding, max(chosen), len(chosen), shares, chosen)


def _spread_shares(those: Sequence[dict[Share, float]]) -> dict[Share, Spread]:
    names = {share for each in those for share in each}
    return {s: Spread.of([each[s] for each in those if s in each]) for s in names}


def _draw_table(rows: Sequence[SweepResult], shown: Sequence[Share], title: str) -> Table:
    drawn = make_table(title)
    points = any(row.point for row in rows)
    for heading in (*(["point"] if points else []), "arm", "decoding", "iteration"):
        drawn.add_column(heading, no_wrap=True)
    for heading in ("seeds", *(_HEADINGS.get(share, share) for share in shown)):
        drawn.add_column(heading, justify="right", no_wrap=True)
    # A name is printed only where it differs from the row above.
    before: tuple[str, ...] = ()
    for row in rows:
        names = (*([row.point] if points else []), row.arm, row.decoding)
        same = [a == b for a, b in zip(names, before, strict=False)] or [False] * len(names)
        kept = ["" if all(same[: n + 1]) else name for n, name in enumerate(names)]
        drawn.add_row(
            *map(one_line, kept),
            row.society,
            str(row.seeds),
            *(_format_spread(row.shares.get(share)) for share in shown),
        )
        before = names
    return drawn


def _format_spread(spread: Spread | None) -> str:
    if spread is None:
        return ""
    return f"{100 * spread.mean:.1f} {100 * spread.low:.1f}–{100 * spread.high:.1f}"


def _read_line(run: RunFolder) -> str:
    record = read_progress(run)
    return "in use by another process" if record is None else record.line


def _describe_run(run: RunFolder) -> str:
    try:
        with Store.open(run.database, read_only=True) as store:
            if store.running:
                return f"running: {_read_line(run)}"
            found = store.run()
    except StoreMissing:
        return "not started"
    # A run with --no-live holds its file alone, and is running.
    except StoreLocked:
        return f"running: {_read_line(run)}"
    except StoreError as error:
        return f"unreadable: {error}"
    if found is None or found.finished_at is None:
        return "stopped before its end"
    return f"finished {found.finished_at:%Y-%m-%d %H:%M} UTC"


def show_status(folder: RunFolder, record: SweepRecord, stream: TextIO) -> None:
    """Print how far every run of the sweep is, and the results so far."""
    runs = folder.path.parent
    states = [
        (member.run, _describe_run(folders.locate_run(runs, member.run)))
        for member in record.members
    ]
    finished = sum(state.startswith("finished") for _, state in states)
    write_line(stream, f"sweep {folder.name}: {finished} of {len(states)} runs finished")
    write_rows(("run", "state"), states, "table", stream)
    show_results(record, runs, stream)
