"""Pseudo-labels, what debate changes, and the losses."""

from __future__ import annotations

from collections.abc import Sequence

from evals.report.diversities import ArmDiversity, Scale, list_scales
from evals.report.facts import ExperimentFacts, Facts
from evals.report.figures.accuracy import describe_marks, title_panel
from evals.report.figures.figure import ArmLine, DataPoint, Figure, Panel, align_panels
from evals.report.training import ArmLabels, Flips, average_loss_curves
from evals.stored_run import ArmSettings
from store.records import StageKey

_ROLES = {"generator": "first answers", "critic": "last answers"}
_NAMES = {"nll": "NLL under others", "kl": "KL between agents", "kl_base": "KL from the base"}
# What has room beside an axis.
_SHORT = {
    "embedding": "1 − cosine",
    "nll": "nats per token",
    "kl": "nats per token",
    "kl_base": "nats per token",
}


def build_diversity_by_iteration(facts: Facts) -> Figure:
    """One panel for every scale that has values."""
    panels = []
    for experiment in facts.experiments:
        for scale in list_scales(_list_own(experiment)):
            lines, levels = [], []
            for arm in _list_alike(experiment):
                found = _list_of(experiment, arm.name, scale)
                if found and arm.trained:
                    lines.append(ArmLine(arm.name, tuple(map(_to_point, found))))
                elif found:
                    levels.append(ArmLine(arm.name, (_to_point(found[-1]),)))
            panels.append(
                Panel(
                    title_panel(facts, experiment, _name_scale(scale)), "iterations", "iteration",
                    _name_unit(scale), tuple(lines), tuple(levels), scale.measure == "agreement",
                    main=experiment.main.name,
                )
            )  # fmt: skip
    caption = "Diversity of the agents' answers to held-out questions."
    if any(len(_list_alike(each)) < len(each.arms) for each in facts.experiments):
        caption += " Only arms with as many agents as the society."
    caption += f" {describe_marks(panels)}"
    if any(panel.percent for panel in panels):
        caption += " Where agents agree more, they are less diverse."
    # What is measured in one unit has one scale.
    units = dict.fromkeys(panel.y_label for panel in panels)
    aligned = [
        panel
        for unit in units
        for panel in align_panels([each for each in panels if each.y_label == unit])
    ]
    return Figure("figure-3-diversity", "Diversity by iteration", caption, tuple(aligned))


def build_accuracy_against_diversity(facts: Facts) -> Figure:
    """One panel for every scale over all responses: arm x iteration, and faint every seed."""
    panels = []
    for experiment in facts.experiments:
        for scale in list_scales(_list_own(experiment)):
            if scale.responses == "all":
                lines = [_build_path(experiment, arm, scale) for arm in _list_alike(experiment)]
                moving = tuple(line for line in lines if len(line.points) > 1)
                still = tuple(line for line in lines if len(line.points) == 1)
                if not moving and not still:
                    continue
                panels.append(
                    Panel(
                        title_panel(facts, experiment, _name_scale(scale)), "against",
                        _name_unit(scale, short=False), "accuracy of the vote, %", moving, still,
                    )
                )  # fmt: skip
    caption = (
        "Accuracy of the vote against diversity, on held-out questions: every arm's way from the "
        "untuned society to its last iteration, which is the large mark."
    )
    if facts.several_seeds:
        caption += " Faint: single seeds."
    return Figure(
        "figure-4-accuracy-diversity",
        "Accuracy against diversity",
        caption,
        tuple(align_panels(panels)),
    )


def _build_path(experiment: ExperimentFacts, arm: ArmSettings, scale: Scale) -> ArmLine:
    points, faint = [], []
    for each in _list_of(experiment, arm.name, scale):
        stage = StageKey(each.iteration, "eval", arm.name, each.decoding)
        vote = experiment.accuracies.find(stage, "consensus")
        if vote is None or each.value is None:
            continue
        points.append(DataPoint(each.value, vote.rate.value))
        # A seed can have a diversity and no accuracy: its questions may lack gold.
        values = dict(vote.seeds)
        if len(each.seeds) > 1:
            faint += [DataPoint(x, values[seed]) for seed, x in each.seeds if seed in values]
    return ArmLine(arm.name, tuple(points), tuple(faint))


def _list_own(experiment: ExperimentFacts) -> list[ArmDiversity]:
    """Of the run's own task, in the decoding of the votes."""
    return [
        each
        for each in experiment.diversities
        if each.task is None and each.decoding == experiment.decoding
    ]


def _list_of(experiment: ExperimentFacts, arm: str, scale: Scale) -> list[ArmDiversity]:
    found = [
        each
        for each in _list_own(experiment)
        if (each.arm, each.scale) == (arm, scale) and each.value is not None
    ]
    return sorted(found, key=lambda each: each.iteration)


def _list_alike(experiment: ExperimentFacts) -> Sequence[ArmSettings]:
    # With more agents there are more pairs and other shares: such arms are on another scale.
    return [arm for arm in experiment.arms if arm.agents == experiment.main.agents]


def _to_point(each: ArmDiversity) -> DataPoint:
    seeds = tuple(value for _, value in each.seeds) if len(each.seeds) > 1 else ()
    return DataPoint(each.iteration, each.value or 0.0, each.low, each.high, seeds)


def _name_scale(scale: Scale) -> str:
    parts = [_NAMES.get(scale.measure, scale.measure), _ROLES.get(scale.role, scale.role)]
    if scale.responses != "all":
        parts.append(scale.responses)
    return ", ".join(parts)


def _name_unit(scale: Scale, *, short: bool = True) -> str:
    if scale.measure == "agreement":
        return "agreement, %" if short else "agreement (share)"
    unit = _SHORT.get(scale.measure, scale.unit) if short else scale.unit
    told = scale.encoder not in ("", "exact")
    return f"{unit} ({scale.encoder})" if told else unit


def build_labels(facts: Facts) -> Figure:
    """How good the labels are that the arms make for themselves."""
    panels = []
    for experiment in facts.experiments:
        lines = {
            "labels right": _label_lines(experiment, "right"),
            "questions with a label": _label_lines(experiment, "coverage"),
            "tied votes": _label_lines(experiment, "ties"),
        }
        panels += [
            Panel(
                title_panel(facts, experiment, name),
                "iterations",
                "iteration",
                "%",
                found,
                main=experiment.main.name,
            )
            for name, found in lines.items()
            # A panel of single points shows no course; the table has the values.
            if any(len(line.points) > 1 for line in found)
        ]
    caption = f"The labels of each iteration's training questions. {describe_marks(panels)}"
    return Figure(
        "pseudo-labels", "Pseudo-labels by iteration", caption, tuple(align_panels(panels))
    )


def _label_lines(experiment: ExperimentFacts, what: str) -> tuple[ArmLine, ...]:
    found = []
    for arm in experiment.group.arms:
        points = [
            point
            for each in experiment.labels
            if each.arm == arm.name and (point := _label_point(each, what)) is not None
        ]
        if points:
            found.append(ArmLine(arm.name, tuple(points)))
    return tuple(found)


def _label_point(each: ArmLabels, what: str) -> DataPoint | None:
    if what == "right":
        rate = each.accuracy
        seeds = tuple(value for _, value in each.seeds) if len(each.seeds) > 1 else ()
        return DataPoint(each.iteration, rate.value, rate.low, rate.high, seeds) if rate else None
    return DataPoint(each.iteration, each.coverage if what == "coverage" else each.ties)


def build_flips(facts: Facts) -> Figure:
    """How many answers a debate turns, on held-out questions."""
    panels = []
    for experiment in facts.experiments:
        for name in ("wrong → right", "right → wrong"):
            lines: list[ArmLine] = []
            levels: list[ArmLine] = []
            for arm in experiment.arms:
                points = tuple(
                    DataPoint(each.iteration, _turned_share(each, name))
                    for each in experiment.flips
                    if (each.arm, each.split, each.decoding)
                    == (arm.name, "eval", experiment.decoding)
                )
                if points:
                    (lines if arm.trained else levels).append(ArmLine(arm.name, points))
            if any(len(line.points) > 1 for line in lines):
                panels.append(
                    Panel(
                        title_panel(facts, experiment, name), "iterations", "iteration",
                        "of all answers, %", tuple(lines), tuple(levels),
                        main=experiment.main.name,
                    )
                )  # fmt: skip
    caption = "Each agent's first against its last answer to held-out questions."
    return Figure("flips", "What debate changes", caption, tuple(align_panels(panels)))


def _turned_share(each: Flips, name: str) -> float:
    turned = each.wrong_to_right if name == "wrong → right" else each.right_to_wrong
    return turned / each.answers


def build_losses(facts: Facts) -> Figure:
    """The mean training loss of an arm's models, iteration after iteration."""
    panels = []
    for experiment in facts.experiments:
        for role in ("generator", "critic"):
            lines = [
                ArmLine(arm.name, points)
                for arm in experiment.group.arms
                if (points := _build_curve(experiment, arm.name, role))
            ]
            if lines:
                panels.append(
                    Panel(
                        title_panel(facts, experiment, f"{role}s"), "progress", "iteration",
                        "loss, nats per trained token", tuple(lines), percent=False,
                    )
                )  # fmt: skip
    seeds = " and the seeds" if facts.several_seeds else ""
    caption = (
        f"Mean training loss over an arm's models{seeds}, each job from its first optimizer step "
        "to its last, however many it has."
    )
    return Figure("losses", "Training loss", caption, tuple(align_panels(panels)))


def _build_curve(experiment: ExperimentFacts, arm: str, role: str) -> tuple[DataPoint, ...]:
    jobs = [job for job in experiment.tunings if (job.arm, job.role) == (arm, role)]
    points: list[DataPoint] = []
    for iteration in sorted({job.iteration for job in jobs}):
        curve = average_loss_curves([job for job in jobs if job.iteration == iteration])
        # A small gap at both ends keeps the curves of neighbouring iterations apart.
        points += [DataPoint(iteration - 1 + 0.03 + 0.94 * done, loss) for done, loss in curve]
    return tuple(points)
