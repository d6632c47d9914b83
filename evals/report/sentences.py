"""The findings of a report in plain sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evals.intervals import PairedDifference
from evals.report import comparisons, diversities
from evals.report.comparisons import ArmVerdict, Outcome
from evals.report.diversities import Scale, Survival
from evals.report.facts import ExperimentFacts
from evals.report.table import replace_minus, show_p_value, show_points

MANY_UNREAD = 0.05
"""The share of unreadable answers from which on a notice at the top says so."""


@dataclass(frozen=True, slots=True)
class ArmFinding:
    """All arms that the main arm is better than, or worse than, or not shown to differ from."""

    outcome: Outcome
    lead: str
    others: tuple[str, ...]
    close: str = ""


def describe_accuracy(experiment: ExperimentFacts) -> str | None:
    """How accurate the main arm is; None before anything was evaluated."""
    society = experiment.main.name
    vote = experiment.accuracies.find_last(society, experiment.decoding, "consensus")
    if vote is None:
        return None
    after = f"After iteration {vote.key.stage.iteration}" if vote.key.stage.iteration else "Untuned"
    rate, seeds = vote.rate, len(vote.seeds)
    size = f"{rate.total} questions" + (f", {seeds} seeds" if seeds > 1 else "")
    return (
        f"{after}, the vote of {society} is right on {100 * rate.value:.1f} % of the held-out "
        f"questions (95 % interval {100 * rate.low:.1f} to {100 * rate.high:.1f}; {size})."
    )


def describe_votes(experiment: ExperimentFacts) -> str | None:
    """How the main arm votes, if no question has gold; None before anything was evaluated."""
    shown = [v for v in experiment.main_votings if v.stage.decoding == experiment.decoding]
    if not shown:
        return None
    first, last = shown[0], shown[-1]
    text = (
        f"Accuracy needs gold answers, and none of the {last.questions} evaluation questions has "
        "one. "
    )
    if last.last is not None:
        after = f"after iteration {last.stage.iteration}" if last.stage.iteration else "untuned"
        text += (
            f"What is known without: {after}, {100 * last.last:.1f} % of the readable last answers "
            f"of {experiment.main.name} are those of the vote"
        )
        if first.stage.iteration != last.stage.iteration and first.last is not None:
            text += f", {100 * first.last:.1f} % were before any tuning"
        text += f"; {100 * last.ties:.1f} % of the votes are tied. "
    return text + "More agreement is not more accuracy: the agents may share an error."


def list_findings(experiment: ExperimentFacts) -> list[ArmFinding]:
    """What the vote on the run's own task shows: better, worse, no difference shown."""
    primary = comparisons.find_primary(experiment.verdicts)
    if primary is None:
        return []
    leads: dict[Outcome, str] = {
        "better": "Better than",
        "worse": "Worse than",
        "unclear": "No difference shown at this size to",
    }
    found = []
    for outcome, lead in leads.items():
        chosen = [each for each in primary.verdicts if each.outcome == outcome]
        if chosen:
            close = _describe_size(chosen) if outcome == "unclear" else ""
            found.append(ArmFinding(outcome, lead, tuple(map(name_other, chosen)), close))
    return found


def describe_shared_models(experiment: ExperimentFacts) -> str | None:
    """The main arm against one model for all agents, on all data and on one agent's amount."""
    primary = comparisons.find_primary(experiment.verdicts)
    if primary is None:
        return None
    kinds = {arm.name: arm.kind for arm in experiment.arms}
    found = {kinds.get(each.other): each for each in primary.verdicts}
    pooled, matched = found.get("single-agent"), found.get("single-agent-matched")
    if pooled is None or matched is None:
        return None
    return (
        f"Against one model for all agents: {_describe_difference(pooled)} where it learns from "
        f"the pooled data of all, {_describe_difference(matched)} where it learns from as many "
        "examples as one agent."
    )


def describe_diversity(experiment: ExperimentFacts) -> list[str]:
    """How the diversity of the main arm and of a single shared model has changed."""
    scale = _choose_scale(experiment)
    if scale is None:
        return []
    # Other arms also differ in labels, data or rounds, so their diversity says little about how
    # many models there are.
    alike = ("multiagent", "single-agent", "single-agent-matched")
    arms = [experiment.main] + [
        arm for arm in experiment.arms if arm != experiment.main and arm.kind in alike
    ]
    found = (
        diversities.find_survival(experiment.diversities, arm.name, scale, experiment.decoding)
        for arm in arms
    )
    return [_describe_survival(each) for each in found if each is not None]


def list_concerns(experiment: ExperimentFacts) -> list[str]:
    """What gets worse in the main arm; of several runs, each concern names its own."""
    several = len(experiment.group.runs) > 1
    return [
        f"{run.name}: {concern.text}" if several else concern.text
        for run, concern in experiment.concerns
        if concern.arm == experiment.main.name
    ]


def _choose_scale(experiment: ExperimentFacts) -> Scale | None:
    scales = diversities.list_scales(experiment.diversities)
    # Embeddings see more than the final answer; agreement is what every run has.
    for measure in ("embedding", "agreement"):
        for scale in scales:
            if (scale.measure, scale.role, scale.responses) == (measure, "generator", "all"):
                return scale
    return None


def _describe_survival(each: Survival) -> str:
    before, after = each.before.value, each.after.value
    if each.scale.measure == "agreement":
        change = f"from {100 * before:.1f} to {100 * after:.1f} %"
        what = "the agents agree on the plurality answer"
        words = ("more", "less")
        # More agreement is less diversity, so the words follow agreement and not diversity.
        moved = words[after < before] if each.apart else "as much as before, as far as this shows"
        return f"{each.arm}: {what} {moved} ({change}, first answers)."
    share = f", {replace_minus(f'{100 * (after / before - 1):+z.0f}')} %" if before else ""
    moved = (
        ("has fallen", "has risen")[after > before]
        if each.apart
        else "has not changed as far as this shows"
    )
    return (
        f"{each.arm}: diversity of the first answers {moved} ({before:.3f} to {after:.3f}{share}; "
        f"{each.scale.unit}, {each.scale.encoder})."
    )


def name_other(verdict: ArmVerdict) -> str:
    """The other arm, or in words the main arm before tuning."""
    return "itself before tuning" if verdict.untuned else verdict.other


def _describe_difference(verdict: ArmVerdict) -> str:
    change = verdict.comparison.by_question
    p = show_p_value(verdict.p_value)
    sign = "" if p.startswith("<") else "= "
    return (
        f"{show_points(change.difference)} points (95 % interval {show_points(change.low)} to "
        f"{show_points(change.high)}, p {sign}{p})"
    )


def _describe_size(chosen: Sequence[ArmVerdict]) -> str:
    changes = [each.comparison.by_question for each in chosen]
    # A rule of thumb, not a power analysis: the widest interval limits what can be seen.
    widest = max(max(abs(change.difference), _half(change)) for change in changes)
    return (
        f"With these questions and seeds, differences below about {100 * widest:.0f} points cannot "
        "be told from chance."
    )


def _half(change: PairedDifference) -> float:
    return (change.high - change.low) / 2


def list_notices(experiment: ExperimentFacts) -> Iterator[str]:
    """What a reader must know before relying on the numbers."""
    runs = experiment.group.runs
    unfinished = [run.name for run in runs if run.finished_at is None]
    if unfinished:
        yield f"Not finished: {', '.join(unfinished)}. The page shows what is complete so far."
    yield from _notice_gold(experiment)
    yield from _notice_unread(experiment)
    if experiment.waiting:
        yield f"Nothing evaluated yet: {', '.join(experiment.waiting)}."
    seeds = [run.seed for run in runs]
    again = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if again:
        names = ", ".join(run.name for run in runs if run.seed in again)
        yield (
            f"{names} have the same settings and the same seed: if the model is deterministic they "
            "are copies, and count more than they should."
        )


def _notice_gold(experiment: ExperimentFacts) -> Iterator[str]:
    # An evaluation may still be going on, so the stage with the most questions counts.
    most = max(experiment.main_votings, key=lambda each: each.questions, default=None)
    if most is not None and 0 < most.known < most.questions:
        yield (
            f"{most.known} of the {most.questions} evaluation questions have gold: accuracies are "
            "over those."
        )


def _notice_unread(experiment: ExperimentFacts) -> Iterator[str]:
    worst = max(experiment.main_votings, key=lambda each: each.unparsed, default=None)
    if worst is not None and worst.unparsed >= MANY_UNREAD:
        after = (
            f"iteration {worst.stage.iteration}" if worst.stage.iteration else "the untuned society"
        )
        yield (
            f"In {100 * worst.unparsed:.1f} % of the {worst.stage.decoding} answers of {after} to "
            "evaluation questions no answer could be read; "
            f"{100 * worst.truncated:.1f} % were cut at the token limit (sampling.max_tokens). "
            "They count as wrong and cast no vote."
        )
    labels = [each for each in experiment.labels if each.arm == experiment.main.name]
    cut = max(labels, key=lambda each: each.unparsed or 0.0, default=None)
    if cut is not None and (cut.unparsed or 0.0) >= MANY_UNREAD:
        yield (
            f"In {100 * (cut.unparsed or 0.0):.1f} % of the answers that the labels of iteration "
            f"{cut.iteration} come from no answer could be read; "
            f"{100 * (cut.truncated or 0.0):.1f} % were cut at the token limit. "
            f"{100 * cut.below_quorum:.1f} % of the training questions have too few voters for a "
            "label (consensus.quorum)."
        )
