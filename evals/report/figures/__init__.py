"""The report's figures, from its facts."""

from __future__ import annotations

from evals.report.facts import Facts
from evals.report.figures import accuracy, diversity, learning
from evals.report.figures.specification import Figure


def build(facts: Facts) -> dict[str, Figure]:
    """The figures that have something to show, by name, in the order of the page."""
    figures = [
        accuracy.differences(facts),
        accuracy.by_iteration(facts),
        diversity.by_iteration(facts),
        diversity.against_accuracy(facts),
        accuracy.zero_shot(facts),
        learning.labels(facts),
        learning.flips(facts),
        learning.losses(facts),
    ]
    return {figure.name: figure for figure in figures if figure.panels}
