"""What the comparisons say, in plain sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evals.intervals import PairedDifference
from evals.report import diversities, verdicts
from evals.report.cells import PValue, minus, points
from evals.report.diversities import Scale, Survival
from evals.report.facts import ExperimentFacts
from evals.report.verdicts import Outcome, Verdict

MANY_UNREAD = 0.05
"""From which share of unreadable answers on the reader is told at the top."""


@dataclass(frozen=True, slots=True)
class Finding:
    """All arms that the society is better than, or worse than, or not shown to differ from."""

    outcome: Outcome
    lead: str
    others: tuple[str, ...]
    close: str = ""


def opening(experiment: ExperimentFacts) -> str | None:
    """How good the society is; None before anything was evaluated."""
    society = experiment.main.name
    vote = experiment.accuracies.last(society, experiment.decoding, "consensus")
    if vote is None:
        return None
    after = f"After iteration {vote.key.stage.iteration}" if vote.key.stage.iteration else "Untuned"
    rate, seeds = vote.rate, len(vote.seeds)
    size = f"{rate.total} questions" + (f", {seeds} seeds" if seeds > 1 else "")
    return (
        f"{after}, the vote of {society} is right on {100 * rate.value:.1f} % of the held-out "
        f"questions (95 % interval {100 * rate.low:.1f} to {100 * rate.high:.1f}; {size})."
    )


def without_gold(experiment: ExperimentFacts) -> str | None:
    """What is known where no evaluation question has gold; None before anything was evaluated."""
    shown = [v for v in experiment.main_votings if v.decoding == experiment.decoding]
    if not shown:
        return None
    first, last = shown[0], shown[-1]
    text = (
        f"Accuracy needs gold answers, and none of the {last.questions} evaluation questions has "
        "one. "
    )
    if last.last is not None:
        after = f"after iteration {last.iteration}" if last.iteration else "untuned"
        text += (
            f"What is known without: {after}, {100 * last.last:.1f} % of the readable last answers "
            f"of {experiment.main.name} are those of the vote"
        )
        if first.iteration != last.iteration and first.last is not None:
            text += f", {100 * first.last:.1f} % were before any tuning"
        text += f"; {100 * last.ties:.1f} % of the votes are tied. "
    return text + "More agreement is not more accuracy: the agents may share an error."


def findings(experiment: ExperimentFacts) -> list[Finding]:
    """By the vote on the run's own task: better, worse, no difference shown."""
    primary = verdicts.primary(experiment.verdicts)
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
            close = _size(chosen) if outcome == "unclear" else ""
            found.append(Finding(outcome, lead, tuple(map(name, chosen)), close))
    return found


def shared_models(experiment: ExperimentFacts) -> str | None:
    """One model for all agents, on all data and on one agent's amount, side by side."""
    primary = verdicts.primary(experiment.verdicts)
    if primary is None:
        return None
    kinds = {arm.name: arm.kind for arm in experiment.arms}
    found = {kinds.get(each.other): each for each in primary.verdicts}
    pooled, matched = found.get("single-agent"), found.get("single-agent-matched")
    if pooled is None or matched is None:
        return None
    return (
        f"Against one model for all agents: {_difference(pooled)} where it learns from the pooled "
        f"data of all, {_difference(matched)} where it learns from as many examples as one agent."
    )


def survival(experiment: ExperimentFacts) -> list[str]:
    """What has become of the society's diversity, and of a single model's beside it."""
    scale = _preferred(experiment)
    if scale is None:
        return []
    alike = ("multiagent", "single-agent", "single-agent-matched")
    arms = [experiment.main] + [
        arm for arm in experiment.arms if arm != experiment.main and arm.kind in alike
    ]
    found = (
        diversities.survival(experiment.diversities, arm.name, scale, experiment.decoding)
        for arm in arms
    )
    return [_survived(each) for each in found if each is not None]


def worries(experiment: ExperimentFacts) -> list[str]:
    """What gets worse in the society itself; the run is named where there are several."""
    several = len(experiment.experiment.sources) > 1
    return [
        f"{source.name}: {concern.text}" if several else concern.text
        for source, concern in experiment.concerns
        if concern.arm == experiment.main.name
    ]


def _preferred(experiment: ExperimentFacts) -> Scale | None:
    scales = diversities.scales(experiment.diversities)
    for measure in ("embedding", "agreement"):
        for scale in scales:
            if (scale.measure, scale.role, scale.responses) == (measure, "generator", "all"):
                return scale
    return None


def _survived(each: Survival) -> str:
    before, after = each.before.value, each.after.value
    if each.scale.measure == "agreement":
        change = f"from {100 * before:.1f} to {100 * after:.1f} %"
        what = "the agents agree on the plurality answer"
        words = ("more", "less")
        moved = words[after < before] if each.apart else "as much as before, as far as this shows"
        return f"{each.arm}: {what} {moved} ({change}, first answers)."
    share = f", {minus(f'{100 * (after / before - 1):+z.0f}')} %" if before else ""
    moved = (
        ("has fallen", "has risen")[after > before]
        if each.apart
        else "has not changed as far as this shows"
    )
    return (
        f"{each.arm}: diversity of the first answers {moved} ({before:.3f} to {after:.3f}{share}; "
        f"{each.scale.unit}, {each.scale.encoder})."
    )


def name(verdict: Verdict) -> str:
    """The other arm; the society's own name would say nothing."""
    return "itself before tuning" if verdict.untuned else verdict.other


def _difference(verdict: Verdict) -> str:
    change = verdict.comparison.by_question
    p = PValue(verdict.p_value).shown
    sign = "" if p.startswith("<") else "= "
    return (
        f"{points(change.difference)} points (95 % interval {points(change.low)} to "
        f"{points(change.high)}, p {sign}{p})"
    )


def _size(chosen: Sequence[Verdict]) -> str:
    changes = [each.comparison.by_question for each in chosen]
    widest = max(max(abs(change.difference), _half(change)) for change in changes)
    return (
        f"With these questions and seeds, differences below about {100 * widest:.0f} points cannot "
        "be told from chance."
    )


def _half(change: PairedDifference) -> float:
    return (change.high - change.low) / 2


def notices(experiment: ExperimentFacts) -> Iterator[str]:
    """What a reader must know before believing anything."""
    sources = experiment.experiment.sources
    unfinished = [source.name for source in sources if source.finished_at is None]
    if unfinished:
        runs = ", ".join(unfinished)
        yield f"Not finished: {runs}. The page shows what is complete so far."
    yield from _gold_known(experiment)
    yield from _unread(experiment)
    if experiment.waiting:
        yield f"Nothing evaluated yet: {', '.join(experiment.waiting)}."
    seeds = [source.seed for source in sources]
    again = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if again:
        runs = ", ".join(source.name for source in sources if source.seed in again)
        yield (
            f"{runs} have the same settings and the same seed: where a model is deterministic they "
            "are copies, and count more than they should."
        )


def _gold_known(experiment: ExperimentFacts) -> Iterator[str]:
    most = max(experiment.main_votings, key=lambda each: each.questions, default=None)
    if most is not None and 0 < most.known < most.questions:
        yield (
            f"{most.known} of the {most.questions} evaluation questions have gold: accuracies are "
            "over those."
        )


def _unread(experiment: ExperimentFacts) -> Iterator[str]:
    worst = max(experiment.main_votings, key=lambda each: each.unparsed, default=None)
    if worst is not None and worst.unparsed >= MANY_UNREAD:
        after = f"iteration {worst.iteration}" if worst.iteration else "the untuned society"
        yield (
            f"In {100 * worst.unparsed:.1f} % of the {worst.decoding} answers of {after} to "
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
