"""Which curves the page of a run draws."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from evals.intervals import Rate
from society.view.chart import LINES, Curve
from society.view.overview import Accuracy, Overview
from store.records import StageKey

Singles = Mapping[tuple[StageKey, str | None], Rate]


@dataclass(frozen=True, slots=True)
class Figure:
    """One chart with its curves, in the order of the legend."""

    title: str
    curves: tuple[Curve, ...]


def figures(found: Overview, singles: Singles | None) -> list[Figure]:
    """One figure per task: the measures of the only arm, or the consensus of the arms."""
    tasks = list(dict.fromkeys(row.task for row in found.accuracies))
    several = len({row.stage.arm for row in found.accuracies}) > 1
    made = []
    for task in tasks:
        rows = [row for row in found.accuracies if row.task == task]
        curves = _arms(rows) if several else _measures(rows, singles or {})
        made.append(Figure(f"{task or 'questions'}", tuple(curves)))
    return [figure for figure in made if figure.curves]


def _measures(rows: Iterable[Accuracy], singles: Singles) -> list[Curve]:
    """Votes of sampled debates (of greedy ones for want of others), single agents of both."""
    rows = list(rows)
    decodings = {row.stage.decoding for row in rows}
    votes = "sampled" if "sampled" in decodings else "greedy"
    curves = [
        _curve("consensus", rows, votes, lambda row: row.consensus),
        _curve("round-1 majority", rows, votes, lambda row: row.majority),
    ]
    curves += [
        _curve(
            f"single agent, {decoding}",
            rows,
            decoding,
            lambda row: singles.get((row.stage, row.task)),
        )
        for decoding in sorted(decodings)
    ]
    return [curve for curve in curves if curve.points]


def _arms(rows: Iterable[Accuracy]) -> list[Curve]:
    """The consensus of every arm, those with the longest history first."""
    by_arm: dict[str, list[Accuracy]] = defaultdict(list)
    for row in rows:
        by_arm[row.stage.arm].append(row)
    curves = []
    for arm, own in by_arm.items():
        decodings = {row.stage.decoding for row in own}
        decoding = "sampled" if "sampled" in decodings else "greedy"
        curves.append(_curve(arm, own, decoding, lambda row: row.consensus))
    curves.sort(key=lambda curve: (curve.label != "multiagent", -len(curve.points)))
    return [curve for curve in curves if curve.points][:LINES]


def _curve(
    label: str,
    rows: Iterable[Accuracy],
    decoding: str,
    rate: Callable[[Accuracy], Rate | None],
) -> Curve:
    found = [(row.stage.iteration, rate(row)) for row in rows if row.stage.decoding == decoding]
    return Curve(label, tuple((i, value) for i, value in sorted(found) if value is not None))
