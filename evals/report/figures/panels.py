"""What several figures need: which arms stand together, and axes that can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import ceil, floor

from evals.report.accuracies import Accuracy, Quantity
from evals.report.facts import ExperimentFacts, Facts
from evals.report.figures.specification import Line, Panel, Point
from evals.stored_run import ArmSettings

_ABLATIONS = ("no-critic", "round1-labels", "no-summary")

ACCURACY_BANDS = (
    "Whiskers and bands: 95 % intervals over questions, each question with its mean over the "
    "seeds; thin marks: single seeds."
)


def groups(experiment: ExperimentFacts) -> list[tuple[str, list[ArmSettings]]]:
    """The arms in one panel each: the society with its baselines, then with its ablations and
    variants. Everything together where that is little."""
    main = experiment.main
    others = [arm for arm in experiment.arms if arm.name != main.name]
    own = [main] if main in experiment.arms else []
    apart = [arm for arm in others if arm.kind in _ABLATIONS or arm.name != arm.kind]
    beside = [arm for arm in others if arm not in apart]
    if not apart or not beside or len(others) <= 3:
        return [("", own + others)]
    return [("", own + beside), ("ablations", own + apart)]


def title(facts: Facts, experiment: ExperimentFacts, *parts: str) -> str:
    """What a panel shows, and of which experiment where there are several."""
    lead = (experiment.label,) if len(facts.experiments) > 1 else ()
    return " · ".join(part for part in (*lead, *parts) if part)


def over_iterations(
    experiment: ExperimentFacts,
    arms: Iterable[ArmSettings],
    decoding: str,
    quantity: Quantity,
    task: str | None = None,
) -> tuple[tuple[Line, ...], tuple[Line, ...]]:
    """Lines of the arms that are trained, levels of those that are not."""
    lines, levels = [], []
    for arm in arms:
        points = [
            point(each)
            for each in experiment.accuracies.iterations(arm.name, decoding, quantity, task)
        ]
        if points and arm.trained:
            lines.append(Line(arm.name, tuple(points)))
        elif points:
            levels.append(Line(arm.name, (points[-1],)))
    return tuple(lines), tuple(levels)


def point(accuracy: Accuracy) -> Point:
    """An accuracy at its iteration."""
    rate = accuracy.rate
    seeds = tuple(value for _, value in accuracy.seeds) if len(accuracy.seeds) > 1 else ()
    return Point(accuracy.key.stage.iteration, rate.value, rate.low, rate.high, seeds)


def comparable(panels: Sequence[Panel]) -> list[Panel]:
    """The same panels with one range of y for all, which then can be read side by side."""
    values = [
        value
        for panel in panels
        for line in (*panel.lines, *panel.levels)
        for point in line.points
        for value in (point.y, point.low, point.high, *point.seeds)
        if value is not None
    ]
    if not values:
        return list(panels)
    low, high = floor(20 * min(values)) / 20, ceil(20 * max(values)) / 20
    return [replace(panel, limits=(low, max(high, low + 0.05))) for panel in panels]
