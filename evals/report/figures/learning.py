"""Pseudo-labels, what debate changes, and the losses."""

from __future__ import annotations

from evals.report.facts import ExperimentFacts, Facts
from evals.report.figures.panels import title
from evals.report.figures.specification import Figure, Line, Panel, Point
from evals.report.training import Flips, Labels, loss_curve


def labels(facts: Facts) -> Figure:
    """How good the labels are that the arms make for themselves."""
    panels = []
    for experiment in facts.experiments:
        lines = {
            "labels right": _label_lines(experiment, "right"),
            "questions with a label": _label_lines(experiment, "coverage"),
            "tied votes": _label_lines(experiment, "ties"),
        }
        panels += [
            Panel(title(facts, experiment, name), "iterations", "iteration", "%", found)
            for name, found in lines.items()
            if any(len(line.points) > 1 for line in found)
        ]
    caption = (
        "The labels of each iteration's training questions; gold answers are used here only, to "
        "see how good the labels were. Whiskers: 95 % intervals (Wilson); thin marks: single "
        "seeds."
    )
    return Figure("pseudo-labels", "Pseudo-labels by iteration", caption, tuple(panels))


def _label_lines(experiment: ExperimentFacts, what: str) -> tuple[Line, ...]:
    found = []
    for arm in experiment.experiment.arms:
        points = [
            point
            for each in experiment.labels
            if each.arm == arm.name and (point := _label_point(each, what)) is not None
        ]
        if points:
            found.append(Line(arm.name, tuple(points)))
    return tuple(found)


def _label_point(each: Labels, what: str) -> Point | None:
    if what == "right":
        rate = each.accuracy
        seeds = tuple(value for _, value in each.seeds) if len(each.seeds) > 1 else ()
        return Point(each.iteration, rate.value, rate.low, rate.high, seeds) if rate else None
    return Point(each.iteration, each.coverage if what == "coverage" else each.ties)


def flips(facts: Facts) -> Figure:
    """How many answers a debate turns, on held-out questions."""
    panels = []
    for experiment in facts.experiments:
        for name in ("wrong → right", "right → wrong"):
            lines: list[Line] = []
            levels: list[Line] = []
            for arm in experiment.arms:
                points = tuple(
                    Point(each.iteration, _share(each, name))
                    for each in experiment.flips
                    if (each.arm, each.split, each.decoding)
                    == (arm.name, "eval", experiment.decoding)
                )
                if points:
                    (lines if arm.trained else levels).append(Line(arm.name, points))
            if any(len(line.points) > 1 for line in lines):
                panels.append(
                    Panel(
                        title(facts, experiment, name), "iterations", "iteration",
                        "of all answers, %", tuple(lines), tuple(levels),
                    )
                )  # fmt: skip
    caption = "Each agent's first against its last answer to held-out questions."
    return Figure("flips", "What debate changes", caption, tuple(panels))


def _share(each: Flips, name: str) -> float:
    turned = each.wrong_to_right if name == "wrong → right" else each.right_to_wrong
    return turned / each.answers


def losses(facts: Facts) -> Figure:
    """The mean training loss of an arm's models, iteration after iteration."""
    panels = []
    for experiment in facts.experiments:
        for role in ("generator", "critic"):
            lines = [
                Line(arm.name, points)
                for arm in experiment.experiment.arms
                if (points := _curve(experiment, arm.name, role))
            ]
            if lines:
                panels.append(
                    Panel(
                        title(facts, experiment, f"{role}s"), "progress", "iteration",
                        "loss, nats per trained token", tuple(lines), percent=False,
                    )
                )  # fmt: skip
    caption = (
        "Mean training loss over an arm's models and the seeds, each job from its first optimizer "
        "step to its last, however many it has."
    )
    return Figure("losses", "Training loss", caption, tuple(panels))


def _curve(experiment: ExperimentFacts, arm: str, role: str) -> tuple[Point, ...]:
    jobs = [job for job in experiment.tunings if (job.arm, job.role) == (arm, role)]
    points: list[Point] = []
    for iteration in sorted({job.iteration for job in jobs}):
        curve = loss_curve([job for job in jobs if job.iteration == iteration])
        points += [Point(iteration - 1 + 0.03 + 0.94 * done, loss) for done, loss in curve]
    return tuple(points)
