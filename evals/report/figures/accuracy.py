"""The differences to the other arms, the paper's Figure 1 and its Figure 5."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import ceil, floor

from evals.report.accuracies import Accuracy, Quantity
from evals.report.comparisons import ArmVerdict, ArmVerdicts
from evals.report.facts import ExperimentFacts, Facts
from evals.report.figures.figure import ArmLine, DataPoint, Figure, Panel
from evals.stored_run import ArmSettings
from store.records import Decoding

ACCURACY_BANDS = (
    "Whiskers and bands: 95 % intervals over questions, each question with its mean over the "
    "seeds; thin marks: single seeds."
)


def group_arms(experiment: ExperimentFacts) -> list[tuple[str, list[ArmSettings]]]:
    """The arms in one panel each: the society with its baselines, then with its ablations and
    variants. Everything together where that is little."""
    main = experiment.main
    others = [arm for arm in experiment.arms if arm.name != main.name]
    own = [main] if main in experiment.arms else []
    apart = [arm for arm in others if arm.is_ablation or arm.name != arm.kind]
    beside = [arm for arm in others if arm not in apart]
    # Few lines are read better in one panel than in two.
    if not apart or not beside or len(others) <= 3:
        return [("", own + others)]
    return [("", own + beside), ("ablations", own + apart)]


def title_panel(facts: Facts, experiment: ExperimentFacts, *parts: str) -> str:
    """What a panel shows, and of which experiment where there are several."""
    lead = (experiment.label,) if len(facts.experiments) > 1 else ()
    return " · ".join(part for part in (*lead, *parts) if part)


def collect_lines(
    experiment: ExperimentFacts,
    arms: Iterable[ArmSettings],
    decoding: str,
    quantity: Quantity,
    task: str | None = None,
) -> tuple[tuple[ArmLine, ...], tuple[ArmLine, ...]]:
    """Lines of the arms that are trained, levels of those that are not."""
    lines, levels = [], []
    for arm in arms:
        points = [
            to_point(each)
            for each in experiment.accuracies.list_iterations(arm.name, decoding, quantity, task)
        ]
        if points and arm.trained:
            lines.append(ArmLine(arm.name, tuple(points)))
        elif points:
            # What trains nothing does not change with the iterations: one value, drawn across the
            # panel.
            levels.append(ArmLine(arm.name, (points[-1],)))
    return tuple(lines), tuple(levels)


def to_point(accuracy: Accuracy) -> DataPoint:
    """An accuracy at its iteration."""
    rate = accuracy.rate
    # A single seed's mark would lie under the point itself.
    seeds = tuple(value for _, value in accuracy.seeds) if len(accuracy.seeds) > 1 else ()
    return DataPoint(accuracy.key.stage.iteration, rate.value, rate.low, rate.high, seeds)


def align_panels(panels: Sequence[Panel]) -> list[Panel]:
    """The same panels with one range of y for all, so that they can be compared side by side."""
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
    # Limits at multiples of 5 %, so that ticks fall on round numbers.
    low, high = floor(20 * min(values)) / 20, ceil(20 * max(values)) / 20
    return [replace(panel, limits=(low, max(high, low + 0.05))) for panel in panels]


MEASURE_NAMES = {
    "single": "single agent",
    "majority": "round-1 majority",
    "consensus": "consensus",
}


def build_differences(facts: Facts) -> Figure:
    """The society minus every other arm."""
    panels = [
        Panel(
            title_panel(facts, experiment, f"{MEASURE_NAMES[each.measure]}, {each.decoding}"),
            "differences",
            "difference, points",
            "",
            tuple(_build_row(verdict) for verdict in each.verdicts),
        )
        for experiment in facts.experiments
        for each in _list_own(experiment)
    ]
    caption = (
        "The society's accuracy after its last iteration minus the other's after its own last, on "
        "the same held-out questions. Lines: 95 % intervals over questions; thin marks below: "
        "single seeds."
    )
    return Figure("differences", "The society against the others", caption, tuple(panels))


def _list_own(experiment: ExperimentFacts) -> list[ArmVerdicts]:
    return [each for each in experiment.verdicts if each.task is None]


def _build_row(verdict: ArmVerdict) -> ArmLine:
    comparison = verdict.comparison
    change = comparison.by_question
    seeds = tuple(run.change.difference for run in comparison.runs)
    point = DataPoint(
        change.difference, 0, change.low, change.high, seeds if len(seeds) > 1 else ()
    )
    label = "itself, untuned" if verdict.untuned else verdict.other
    return ArmLine(verdict.other, (point,), label=label)


def build_accuracy_by_iteration(facts: Facts) -> Figure:
    """The paper's Figure 1: accuracy by iteration, the society against the others."""
    panels = []
    shown = dict.fromkeys(which for each in facts.experiments for which in _list_quantities(each))
    for quantity, decoding in shown:
        panels += _build_side_by_side(facts, quantity, decoding, None)
    caption = (
        "Accuracy on held-out questions by iteration. Arms that train nothing are level lines. "
        f"{ACCURACY_BANDS} The axis does not start at zero."
    )
    return Figure("figure-1-accuracy", "Accuracy by iteration", caption, tuple(panels))


def _list_quantities(experiment: ExperimentFacts) -> list[tuple[Quantity, Decoding]]:
    decodings = experiment.accuracies.list_decodings()
    if not decodings:
        return []
    found: list[tuple[Quantity, Decoding]] = [("consensus", experiment.decoding)]
    if len(experiment.arms) == 1:
        found.append(("majority", experiment.decoding))
        return found + [("single", decoding) for decoding in decodings]
    return [*found, ("single", decodings[-1])]


def build_zero_shot(facts: Facts) -> Figure:
    """The paper's Figure 5: accuracy on tasks that no arm is trained on."""
    panels = []
    for task in facts.tasks:
        decodings = [
            d for each in facts.experiments for d in each.accuracies.list_decodings(task)[:1]
        ]
        for decoding in dict.fromkeys(decodings):
            panels += _build_side_by_side(facts, "consensus", decoding, task)
    caption = "Accuracy of the vote on tasks that no arm is trained on. " + ACCURACY_BANDS
    return Figure("figure-5-zero-shot", "Zero-shot accuracy", caption, tuple(panels))


def _build_side_by_side(
    facts: Facts, quantity: Quantity, decoding: Decoding, task: str | None
) -> list[Panel]:
    """One quantity in all experiments: panels that show the same arms have the same axis."""
    found: dict[str, list[Panel]] = {}
    for experiment in facts.experiments:
        for name, arms in group_arms(experiment):
            lines, levels = collect_lines(experiment, arms, decoding, quantity, task)
            parts = (task or "", f"{MEASURE_NAMES[quantity]}, {decoding}", name)
            if lines or levels:
                shown = title_panel(facts, experiment, *parts)
                panel = Panel(shown, "iterations", "iteration", "accuracy, %", lines, levels)
                found.setdefault(name, []).append(panel)
    return [panel for panels in found.values() for panel in align_panels(panels)]
