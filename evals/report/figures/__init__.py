"""The report's figures, from its facts."""

from __future__ import annotations

from evals.report.facts import Facts
from evals.report.figures import accuracy, learning
from evals.report.figures.accuracy import build_overview, caption_overview, describe_course
from evals.report.figures.figure import Figure

__all__ = ["build_figures", "build_overview", "caption_overview", "describe_course"]


def build_figures(facts: Facts, *, votes: bool = True) -> dict[str, Figure]:
    """The figures that have something to show, by name, in the order of the page.

    Without `votes` the accuracy of the vote is left out, which a page shows in its overview.
    """
    figures = [
        accuracy.build_differences(facts),
        accuracy.build_accuracy_by_iteration(facts, votes=votes),
        learning.build_diversity_by_iteration(facts),
        learning.build_accuracy_against_diversity(facts),
        accuracy.build_zero_shot(facts),
        learning.build_labels(facts),
        learning.build_flips(facts),
        learning.build_losses(facts),
    ]
    return {figure.name: figure for figure in figures if figure.panels}
