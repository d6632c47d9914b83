"""The differences to the other arms, the paper's Figure 1 and its Figure 5."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from evals.report.accuracies import Accuracy, Quantity
from evals.report.comparisons import ArmVerdict, ArmVerdicts
from evals.report.facts import ExperimentFacts, Facts
from evals.report.figures.figure import ArmLine, DataPoint, Figure, Panel, align_panels
from evals.stored_run import ArmSettings
from store.records import Decoding


def order_arms(experiment: ExperimentFacts) -> list[ArmSettings]:
    """The arms as a figure draws them: the main one, then the others."""
    # A stable sort: the main arm comes first, and the rest keep their order.
    return sorted(experiment.arms, key=lambda arm: arm.name != experiment.main.name)


def describe_marks(panels: Sequence[Panel]) -> str:
    """What whiskers, bands and thin marks are, as far as the panels have them."""
    lines = [line for panel in panels for line in panel.lines]
    levels = [line for panel in panels for line in panel.levels]
    points = [point for line in (*lines, *levels) for point in line.points]
    said = []
    if any(point.low is not None for point in points):
        # Told by what is drawn: only a panel of few lines has whiskers and bands of all.
        crowded = any(panel.crowded for panel in panels)
        words = "Whiskers" if lines else "Bands"
        words = "Whiskers and bands" if lines and levels and not crowded else words
        only = f" of {panels[0].main}; the table has those of the others" if crowded else ""
        said.append(f"{words}: 95 % intervals over questions{only}.")
    if any(point.seeds for point in points):
        said.append("Thin marks: single seeds; a question counts once, with its mean over them.")
    if levels:
        said.append("Level lines: arms that train nothing.")
    return " ".join(said)


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


MEASURE_NAMES = {
    "single": "one agent alone",
    "majority": "vote of round 1",
    "consensus": "vote of the last round",
}


def build_overview(facts: Facts) -> dict[str, Panel]:
    """By experiment: the vote by iteration, of all arms and of the untuned start.

    Accuracy, or where no gold is known the agents' agreement in the last round.
    """
    panels = {}
    for experiment in facts.experiments:
        main, decoding = experiment.main.name, experiment.decoding
        known = experiment.accuracies.find_last(main, decoding, "consensus") is not None
        lines, levels = collect_lines(
            experiment,
            order_arms(experiment),
            decoding,
            "consensus" if known else "agreement-last",
        )
        title = (
            "Right votes on held-out questions, %"
            if known
            else "Last answers that are the plurality’s, %"
        )
        if lines or levels:
            panels[experiment.label] = Panel(
                title_panel(facts, experiment, title), "overview", "iteration", "", lines, levels,
                main=main,
            )  # fmt: skip
    return dict(zip(panels, align_panels(list(panels.values())), strict=True))


def describe_course(panel: Panel) -> str:
    """The main arm's course in words, for those who do not see the chart."""
    for line in panel.lines:
        if line.arm == panel.main:
            return f"{line.arm}: " + ", ".join(
                f"{'untuned' if point.x == 0 else f'iteration {point.x:.0f}'} {100 * point.y:.1f}"
                for point in line.points
            )
    return "all arms"


def caption_overview(panel: Panel) -> str:
    """What band and thin marks are, as far as the panel has them."""
    own = [
        p for line in (*panel.lines, *panel.levels) if line.arm == panel.main for p in line.points
    ]
    said = []
    if any(point.low is not None for point in own):
        of = f" of {panel.main}" if len(panel.arms) > 1 else ""
        said.append(f"Band: 95 % interval{of} over questions.")
    if any(point.seeds for point in own):
        said.append(
            "Thin marks: its single seeds." if len(panel.arms) > 1 else "Thin marks: seeds."
        )
    return " ".join([*said, "The axis does not start at zero."])


def build_differences(facts: Facts) -> Figure:
    """The society minus every other arm."""
    panels = [
        Panel(
            title_panel(facts, experiment, f"{MEASURE_NAMES[each.measure]}, {each.decoding}"),
            "differences",
            "difference, points",
            "",
            tuple(_build_row(verdict) for verdict in each.verdicts),
            main=experiment.main.name,
        )
        for experiment in facts.experiments
        for each in _list_own(experiment)
    ]
    caption = (
        "The society's accuracy after its last iteration minus the other's after its own last, on "
        "the same held-out questions. Right of zero the society is better. Lines: 95 % intervals "
        "over questions."
    )
    if facts.several_seeds:
        caption += " Thin marks below: single seeds."
    return Figure(
        "differences", "The society against the others", caption, tuple(align_panels(panels))
    )


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


def build_accuracy_by_iteration(facts: Facts, *, votes: bool = True) -> Figure:
    """The paper's Figure 1: accuracy by iteration, the society against the others.

    Without `votes` the vote's panels are left out, which a page shows in its overview.
    """
    shown = dict.fromkeys(which for each in facts.experiments for which in _list_quantities(each))
    panels = [
        panel
        for quantity, decoding in shown
        if votes or quantity != "consensus"
        for panel in _build_side_by_side(facts, quantity, decoding, None)
    ]
    caption = (
        f"Accuracy on held-out questions by iteration. {describe_marks(panels)} The axis does not "
        "start at zero."
    )
    # One scale for all: a single agent is seen to be worse or better than the vote.
    return Figure(
        "figure-1-accuracy", "Accuracy by iteration", caption, tuple(align_panels(panels))
    )


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
    caption = f"Accuracy of the vote on tasks that no arm is trained on. {describe_marks(panels)}"
    return Figure("figure-5-zero-shot", "Zero-shot accuracy", caption, tuple(align_panels(panels)))


def _build_side_by_side(
    facts: Facts, quantity: Quantity, decoding: Decoding, task: str | None
) -> list[Panel]:
    """One quantity in all experiments, one panel each."""
    found = []
    for experiment in facts.experiments:
        lines, levels = collect_lines(experiment, order_arms(experiment), decoding, quantity, task)
        if lines or levels:
            shown = title_panel(
                facts, experiment, task or "", f"{MEASURE_NAMES[quantity]}, {decoding}"
            )
            found.append(
                Panel(
                    shown, "iterations", "iteration", "accuracy, %", lines, levels,
                    main=experiment.main.name,
                )
            )  # fmt: skip
    return found
