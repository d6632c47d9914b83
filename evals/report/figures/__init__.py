"""The report's figures, from its facts."""

from __future__ import annotations

from evals.report.facts import Facts
from evals.report.figures import accuracy, learning
from evals.report.figures.figure import Figure


def build_figures(facts: Facts) -> dict[str, Figure]:
    """The figures that have something to show, by name, in the order of the page."""
    figures = [
        accuracy.build_differences(facts),
        accuracy.build_accuracy_by_iteration(facts),
        learning.build_diversity_by_iteration(facts),
        learning.build_accuracy_against_diversity(facts),
        accuracy.build_zero_shot(facts),
        learning.build_labels(facts),
        learning.build_flips(facts),
        learning.build_losses(facts),
    ]
    return {figure.name: figure for figure in figures if figure.panels}
