"""Which curves the charts of a run show, and which charts there are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from evals.intervals import Rate
from society.view.drawing import LINES, Curve, Scale, find_scale
from society.view.lineage import ModelEntry
from society.view.overview import Overview, StageAccuracy
from store.records import StageKey

Singles = Mapping[tuple[StageKey, str | None], Rate]


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart with its curves, in the order of the legend. All charts of a run have one scale."""

    title: str
    curves: tuple[Curve, ...]
    scale: Scale


def build_charts(found: Overview, singles: Singles | None) -> list[Chart]:
    """Charts of each task: the measures of the only arm, or the consensus of the arms.

    With more arms than a chart has lines there are several, each with the main arm.
    """
    tasks = list(dict.fromkeys(row.task for row in found.accuracies))
    several = len({row.stage.arm for row in found.accuracies}) > 1
    made: list[tuple[str, list[Curve]]] = []
    for task in tasks:
        rows = [row for row in found.accuracies if row.task == task]
        curves = (
            _list_arm_curves(rows, [arm.name for arm in found.arms], found.main_arm)
            if several
            else _list_measure_curves(rows, singles or {})
        )
        made += [(task or "questions", group) for group in _group_curves(curves)]
    if not made:
        return []
    scale = find_scale([curve for _, curves in made for curve in curves])
    return [Chart(title, tuple(curves), scale) for title, curves in made]


def find_loss_scale(models: Iterable[ModelEntry]) -> Scale:
    """The scale that the loss curves of all these models share."""
    losses = [loss for model in models for loss in model.losses]
    return (min(losses), max(losses)) if losses else (0.0, 1.0)


def _group_curves(curves: Sequence[Curve]) -> list[list[Curve]]:
    """The curves in groups of at most `LINES`, of about equal size, each with the first curve."""
    if len(curves) <= LINES:
        return [list(curves)] if curves else []
    first, others = curves[0], curves[1:]
    groups = ceil(len(others) / (LINES - 1))
    size = ceil(len(others) / groups)
    return [[first, *others[at : at + size]] for at in range(0, len(others), size)]


def _list_measure_curves(rows: Iterable[StageAccuracy], singles: Singles) -> list[Curve]:
    """Votes of sampled debates (of greedy ones for want of others), single agents of both."""
    rows = list(rows)
    decodings = {row.stage.decoding for row in rows}
    votes = "sampled" if "sampled" in decodings else "greedy"
    curves = [
        _build_curve("consensus", rows, votes, lambda row: row.consensus),
        _build_curve("round-1 majority", rows, votes, lambda row: row.majority),
    ]
    curves += [
        _build_curve(
            f"single agent, {decoding}",
            rows,
            decoding,
            lambda row: singles.get((row.stage, row.task)),
        )
        for decoding in sorted(decodings)
    ]
    return [curve for curve in curves if curve.points]


def _list_arm_curves(
    rows: Iterable[StageAccuracy], arms: Sequence[str], main_arm: str
) -> list[Curve]:
    """The consensus of every arm: the main arm, then the others in the run's order."""
    by_arm: dict[str, list[StageAccuracy]] = defaultdict(list)
    for row in rows:
        by_arm[row.stage.arm].append(row)
    curves = []
    for arm, own in by_arm.items():
        decodings = {row.stage.decoding for row in own}
        decoding = "sampled" if "sampled" in decodings else "greedy"
        curves.append(_build_curve(arm, own, decoding, lambda row: row.consensus))
    places = {arm: place for place, arm in enumerate(arms)}
    curves.sort(key=lambda curve: (curve.label != main_arm, places.get(curve.label, len(arms))))
    return [curve for curve in curves if curve.points]


def _build_curve(
    label: str,
    rows: Iterable[StageAccuracy],
    decoding: str,
    rate: Callable[[StageAccuracy], Rate | None],
) -> Curve:
    found = [(row.stage.iteration, rate(row)) for row in rows if row.stage.decoding == decoding]
    return Curve(label, tuple((i, value) for i, value in sorted(found) if value is not None))
