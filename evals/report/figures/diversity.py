"""The paper's Figures 3 and 4: diversity by iteration, and accuracy against it."""

from __future__ import annotations

from collections.abc import Sequence

from evals.report.diversities import Diversity, Scale, scales
from evals.report.facts import ExperimentFacts, Facts
from evals.report.figures.panels import title
from evals.report.figures.specification import Figure, Line, Panel, Point
from evals.stored_run import ArmSettings

_ROLES = {"generator": "first answers", "critic": "last answers"}
_NAMES = {"nll": "NLL under others", "kl": "KL between agents", "kl_base": "KL from the base"}
# What has room beside an axis.
_SHORT = {
    "embedding": "1 − cosine",
    "nll": "nats per token",
    "kl": "nats per token",
    "kl_base": "nats per token",
}


def by_iteration(facts: Facts) -> Figure:
    """One panel for every scale that has values."""
    panels = []
    for experiment in facts.experiments:
        for scale in scales(_own(experiment)):
            lines, levels = [], []
            for arm in _alike(experiment):
                found = _of(experiment, arm.name, scale)
                if found and arm.trained:
                    lines.append(Line(arm.name, tuple(map(_point, found))))
                elif found:
                    levels.append(Line(arm.name, (_point(found[-1]),)))
            panels.append(
                Panel(
                    title(facts, experiment, _name(scale)), "iterations", "iteration",
                    _unit(scale), tuple(lines), tuple(levels), scale.measure == "agreement",
                )
            )  # fmt: skip
    caption = (
        "Diversity of the agents' answers to held-out questions; only arms with as many agents as "
        "the society. Whiskers and bands: 95 % intervals over questions; thin marks: single seeds. "
        "Where agents agree more, they are less diverse."
    )
    return Figure("figure-3-diversity", "Diversity by iteration", caption, tuple(panels))


def against_accuracy(facts: Facts) -> Figure:
    """One panel for every scale over all responses: arm x iteration, and faint every seed."""
    panels = []
    for experiment in facts.experiments:
        for scale in scales(_own(experiment)):
            if scale.responses == "all":
                lines = [_path(experiment, arm, scale) for arm in _alike(experiment)]
                moving = tuple(line for line in lines if len(line.points) > 1)
                still = tuple(line for line in lines if len(line.points) == 1)
                if not moving and not still:
                    continue
                panels.append(
                    Panel(
                        title(facts, experiment, _name(scale)), "against",
                        _unit(scale, short=False), "accuracy of the vote, %", moving, still,
                    )
                )  # fmt: skip
    caption = (
        "Accuracy of the vote against diversity, on held-out questions: every arm's way from the "
        "untuned society to its last iteration, which is the large mark. Faint: single seeds."
    )
    return Figure(
        "figure-4-accuracy-diversity", "Accuracy against diversity", caption, tuple(panels)
    )


def _path(experiment: ExperimentFacts, arm: ArmSettings, scale: Scale) -> Line:
    points, faint = [], []
    for each in _of(experiment, arm.name, scale):
        vote = experiment.accuracies.of(arm.name, each.iteration, each.decoding, "consensus")
        if vote is None or each.value is None:
            continue
        points.append(Point(each.value, vote.rate.value))
        values = dict(vote.seeds)
        if len(each.seeds) > 1:
            faint += [Point(x, values[seed]) for seed, x in each.seeds if seed in values]
    return Line(arm.name, tuple(points), tuple(faint))


def _own(experiment: ExperimentFacts) -> list[Diversity]:
    """Of the run's own task, in the decoding of the votes."""
    return [
        each
        for each in experiment.diversities
        if each.task is None and each.decoding == experiment.decoding
    ]


def _of(experiment: ExperimentFacts, arm: str, scale: Scale) -> list[Diversity]:
    found = [
        each
        for each in _own(experiment)
        if (each.arm, each.scale) == (arm, scale) and each.value is not None
    ]
    return sorted(found, key=lambda each: each.iteration)


def _alike(experiment: ExperimentFacts) -> Sequence[ArmSettings]:
    return [arm for arm in experiment.arms if arm.agents == experiment.main.agents]


def _point(each: Diversity) -> Point:
    seeds = tuple(value for _, value in each.seeds) if len(each.seeds) > 1 else ()
    return Point(each.iteration, each.value or 0.0, each.low, each.high, seeds)


def _name(scale: Scale) -> str:
    parts = [_NAMES.get(scale.measure, scale.measure), _ROLES.get(scale.role, scale.role)]
    if scale.responses != "all":
        parts.append(scale.responses)
    return ", ".join(parts)


def _unit(scale: Scale, *, short: bool = True) -> str:
    if scale.measure == "agreement":
        return "agreement, %" if short else "agreement (share)"
    unit = _SHORT.get(scale.measure, scale.unit) if short else scale.unit
    told = scale.encoder not in ("", "exact")
    return f"{unit} ({scale.encoder})" if told else unit
