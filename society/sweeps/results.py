"""What a sweep has come to: accuracy of every point and arm, as a mean over the seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TextIO

from rich import box
from rich.table import Table
from rich.text import Text

from evals.metrics import MEASURES, Decoding, Measure, apart, table, zero_shot_tasks
from evals.reading import evaluated_arms
from society import runs as folders
from society.sweeps.record import SweepRecord
from society.terminal import Screen, one_line
from store.errors import StoreError
from store.ledger import Store


@dataclass(frozen=True, slots=True)
class Spread:
    """A share (0..1) over the seeds: its mean, the least and the most."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(fmean(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Result:
    """One point, arm and decoding: the untuned society, or the last one that all seeds have.

    `seeds` is how many runs are in it. `task` is None for the run's own evaluation questions.
    """

    task: str | None
    point: str
    arm: str
    decoding: Decoding
    iteration: int
    seeds: int
    rates: dict[Measure, Spread]


def results(record: SweepRecord, runs: Path) -> list[Result]:
    """Every result that is stored so far; runs that nobody can read now are left out."""
    found: defaultdict[tuple[str | None, str, str, Decoding], list[dict[int, dict[Measure, float]]]]
    found = defaultdict(list)
    for member in record.members:
        try:
            store = Store.open(folders.folder(runs, member.run).database, read_only=True)
        except StoreError:
            continue
        try:
            for key, rates in _of_run(store):
                task, arm, decoding = key
                found[task, member.point, arm, decoding].append(rates)
        finally:
            store.close()
    tasks = list(dict.fromkeys(task for task, *_ in found))
    tasks.sort(key=lambda task: (task is not None, task))
    merged = [result for key, runs_ in found.items() for result in _merged(key, runs_)]
    return sorted(merged, key=lambda result: tasks.index(result.task))


def show(record: SweepRecord, runs: Path, stream: TextIO) -> None:
    """Print one table for each task."""
    console = Screen(stream)
    if not console.is_terminal:
        console.width = 120
    rows = results(record, runs)
    if not rows:
        console.print("no evaluation debate is complete yet")
        return
    for task in dict.fromkeys(row.task for row in rows):
        of_task = [row for row in rows if row.task == task]
        about = "Held-out questions" if task is None else one_line(apart(task))
        console.print(_drawn(of_task, f"{about}: accuracy in %, mean over seeds, least to most"))


def _of_run(
    store: Store,
) -> Iterator[tuple[tuple[str | None, str, Decoding], dict[int, dict[Measure, float]]]]:
    for arm in evaluated_arms(store):
        for task in (None, *zero_shot_tasks(store)):
            by_decoding: defaultdict[Decoding, dict[int, dict[Measure, float]]] = defaultdict(dict)
            for row in table(store, arm, task):
                by_decoding[row.decoding][row.iteration] = {
                    measure: row.rate(measure).value for measure in MEASURES
                }
            for decoding, rates in by_decoding.items():
                yield (task, arm, decoding), rates


def _merged(
    key: tuple[str | None, str, str, Decoding], runs: Sequence[dict[int, dict[Measure, float]]]
) -> Iterator[Result]:
    task, point, arm, decoding = key
    for iteration in sorted({0, min(max(run) for run in runs)}):
        those = [run[iteration] for run in runs if iteration in run]
        if those:
            rates = {m: Spread.of([each[m] for each in those]) for m in MEASURES}
            yield Result(task, point, arm, decoding, iteration, len(those), rates)


def _drawn(rows: Sequence[Result], title: str) -> Table:
    drawn = Table(
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=Text(title), title_justify="left"
    )
    points = any(row.point for row in rows)
    for heading in (*(["point"] if points else []), "arm", "decoding", "iteration"):
        drawn.add_column(heading, no_wrap=True)
    for heading in ("seeds", "single agent", "round-1 majority", "consensus"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    before: tuple[str, ...] = ()
    for row in rows:
        names = (*([row.point] if points else []), row.arm, row.decoding)
        same = [a == b for a, b in zip(names, before, strict=False)] or [False] * len(names)
        kept = ["" if all(same[: n + 1]) else name for n, name in enumerate(names)]
        drawn.add_row(
            *map(one_line, kept),
            "untuned" if row.iteration == 0 else str(row.iteration),
            str(row.seeds),
            *(_spread(row.rates[measure]) for measure in MEASURES),
        )
        before = names
    return drawn


def _spread(spread: Spread) -> str:
    return f"{100 * spread.mean:.1f} {100 * spread.low:.1f}–{100 * spread.high:.1f}"
