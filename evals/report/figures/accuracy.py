"""The differences to the other arms, the paper's Figure 1 and its Figure 5."""

from __future__ import annotations

from evals.metrics import Decoding
from evals.report.accuracies import Quantity
from evals.report.facts import ExperimentFacts, Facts
from evals.report.figures.panels import (
    ACCURACY_BANDS,
    comparable,
    groups,
    over_iterations,
    title,
)
from evals.report.figures.specification import Figure, Line, Panel, Point
from evals.report.verdicts import Verdict, Verdicts

NAMES = {
    "single": "single agent",
    "majority": "round-1 majority",
    "consensus": "consensus",
}


def differences(facts: Facts) -> Figure:
    """The society minus every other arm."""
    panels = [
        Panel(
            title(facts, experiment, f"{NAMES[each.measure]}, {each.decoding}"),
            "differences",
            "difference, points",
            "",
            tuple(_row(verdict) for verdict in each.verdicts),
        )
        for experiment in facts.experiments
        for each in _own(experiment)
    ]
    caption = (
        "The society's accuracy after its last iteration minus the other's after its own last, on "
        "the same held-out questions. Lines: 95 % intervals over questions; thin marks below: "
        "single seeds."
    )
    return Figure("differences", "The society against the others", caption, tuple(panels))


def _own(experiment: ExperimentFacts) -> list[Verdicts]:
    return [each for each in experiment.verdicts if each.task is None]


def _row(verdict: Verdict) -> Line:
    comparison = verdict.comparison
    change = comparison.by_question
    seeds = tuple(run.change.difference for run in comparison.runs)
    point = Point(change.difference, 0, change.low, change.high, seeds if len(seeds) > 1 else ())
    label = "itself, untuned" if verdict.untuned else verdict.other
    return Line(verdict.other, (point,), label=label)


def by_iteration(facts: Facts) -> Figure:
    """The paper's Figure 1: accuracy by iteration, the society against the others."""
    panels = []
    shown = dict.fromkeys(which for each in facts.experiments for which in _quantities(each))
    for quantity, decoding in shown:
        panels += _side_by_side(facts, quantity, decoding, None)
    caption = (
        "Accuracy on held-out questions by iteration. Arms that train nothing are level lines. "
        f"{ACCURACY_BANDS} The axis does not start at zero."
    )
    return Figure("figure-1-accuracy", "Accuracy by iteration", caption, tuple(panels))


def _quantities(experiment: ExperimentFacts) -> list[tuple[Quantity, Decoding]]:
    decodings = experiment.accuracies.decodings()
    if not decodings:
        return []
    found: list[tuple[Quantity, Decoding]] = [("consensus", experiment.decoding)]
    if len(experiment.arms) == 1:
        found.append(("majority", experiment.decoding))
        return found + [("single", decoding) for decoding in decodings]
    return [*found, ("single", decodings[-1])]


def zero_shot(facts: Facts) -> Figure:
    """The paper's Figure 5: accuracy on tasks that no arm is trained on."""
    panels = []
    for task in facts.tasks:
        decodings = [d for each in facts.experiments for d in each.accuracies.decodings(task)[:1]]
        for decoding in dict.fromkeys(decodings):
            panels += _side_by_side(facts, "consensus", decoding, task)
    caption = "Accuracy of the vote on tasks that no arm is trained on. " + ACCURACY_BANDS
    return Figure("figure-5-zero-shot", "Zero-shot accuracy", caption, tuple(panels))


def _side_by_side(
    facts: Facts, quantity: Quantity, decoding: Decoding, task: str | None
) -> list[Panel]:
    """One quantity in all experiments: panels that show the same arms have the same axis."""
    found: dict[str, list[Panel]] = {}
    for experiment in facts.experiments:
        for name, arms in groups(experiment):
            lines, levels = over_iterations(experiment, arms, decoding, quantity, task)
            parts = (task or "", f"{NAMES[quantity]}, {decoding}", name)
            if lines or levels:
                shown = title(facts, experiment, *parts)
                panel = Panel(shown, "iterations", "iteration", "accuracy, %", lines, levels)
                found.setdefault(name, []).append(panel)
    return [panel for panels in found.values() for panel in comparable(panels)]
