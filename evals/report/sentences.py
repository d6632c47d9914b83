"""The findings of a report in plain sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evals.agreement import Agreement
from evals.intervals import PairedDifference
from evals.report import comparisons, diversity_answer
from evals.report.accuracies import Accuracy
from evals.report.comparisons import ArmVerdict, Outcome
from evals.report.diversities import Survival
from evals.report.facts import ExperimentFacts
from evals.report.table import replace_minus, show_p_value

MANY_UNREAD = 0.05
"""The share of unreadable answers from which on a notice at the top says so."""
CONCERNS = {
    "coverage": "fewer questions get a label",
    "agreement": "less agreement",
    "unparsed": "more unreadable answers",
    "truncated": "more answers cut",
    "one_answer": "one label for many questions",
    "unanimous": "nearly all votes unanimous",
    "label_accuracy": "fewer labels right",
    "held_out": "fewer held-out questions right",
}
"""What gets worse, by its kind in `evals.degradation`."""


@dataclass(frozen=True, slots=True)
class ArmFinding:
    """All arms that the main arm is better than, or worse than, or not shown to differ from."""

    outcome: Outcome
    lead: str
    others: tuple[str, ...]
    close: str = ""


@dataclass(frozen=True, slots=True)
class VoteHeadline:
    """The answer in one number: how often the main arm's vote is right, and what tuning has
    changed about that, None where there is nothing to compare."""

    vote: Accuracy
    change: ArmVerdict | None

    @property
    def when(self) -> str:
        return _describe_moment(self.vote.key.stage.iteration)

    @property
    def size(self) -> str:
        seeds = len(self.vote.seeds)
        more = f" in {seeds} seeds" if seeds > 1 else ""
        return f"{self.vote.rate.total} held-out questions{more}"


def explain_unclear(verdict: ArmVerdict) -> str:
    """Why an interval that leaves out zero shows nothing yet: the corrected p-value."""
    change = verdict.change
    if verdict.outcome != "unclear" or change.low <= 0 <= change.high:
        return ""
    corrected = ", corrected for the number of arms" if verdict.comparison.p_holm else ""
    return f"; p = {show_p_value(verdict.p_value)}{corrected}"


def find_headline(experiment: ExperimentFacts) -> VoteHeadline | None:
    """None before anything was evaluated, and without gold."""
    vote = experiment.accuracies.find_last(experiment.main.name, experiment.decoding, "consensus")
    if vote is None:
        return None
    primary = comparisons.find_primary(experiment.verdicts)
    untuned = (v for v in (primary.verdicts if primary else ()) if experiment.is_untuned_main(v))
    return VoteHeadline(vote, next(untuned, None))


def show_effect(verdict: ArmVerdict) -> str:
    """What tuning has done, in a word or two."""
    words = {"better": "Tuning helped", "worse": "Tuning hurt", "unclear": "No effect shown"}
    return words[verdict.outcome]


@dataclass(frozen=True, slots=True)
class AgreementHeadline:
    """What stands for the answer without gold: how far the main arm's agents agree, now and before
    any tuning."""

    now: Agreement
    before: Agreement | None

    @property
    def when(self) -> str:
        return _describe_moment(self.now.stage.iteration)


def find_agreement(experiment: ExperimentFacts) -> AgreementHeadline | None:
    """None before anything was evaluated."""
    shown = [v for v in experiment.main_votings if v.stage.decoding == experiment.decoding]
    if not shown:
        return None
    first, now = shown[0], shown[-1]
    # A run may evaluate its last society only; then there is no value to compare with.
    known = first.stage.iteration == 0 and first is not now and first.last is not None
    return AgreementHeadline(now, first if known else None)


def _describe_moment(iteration: int) -> str:
    if not iteration:
        return "before any tuning"
    return f"after {iteration} iteration{'s'[: iteration != 1]}"


def list_findings(experiment: ExperimentFacts) -> list[ArmFinding]:
    """What the vote on the run's own task shows: better, worse, no difference shown."""
    primary = comparisons.find_primary(experiment.verdicts)
    if primary is None:
        return []
    leads: dict[Outcome, str] = {
        "better": "Better than",
        "worse": "Worse than",
        "unclear": "No difference shown to",
    }
    found = []
    for outcome, lead in leads.items():
        chosen = [
            each
            for each in primary.verdicts
            if each.outcome == outcome and not experiment.is_untuned_main(each)
        ]
        if chosen:
            close = _describe_size(chosen) if outcome == "unclear" else ""
            found.append(ArmFinding(outcome, lead, tuple(map(name_other, chosen)), close))
    return found


def describe_other_diversities(experiment: ExperimentFacts) -> list[str]:
    """How the diversity of a single shared model has changed, beside the main arm's."""
    # Other arms also differ in labels, data or rounds, so their diversity says little about how
    # many models there are.
    alike = ("multiagent", "single-agent", "single-agent-matched")
    arms = [arm for arm in experiment.arms if arm != experiment.main and arm.kind in alike]
    found = (diversity_answer.find_main_survival(experiment, arm.name) for arm in arms)
    return [_describe_survival(each) for each in found if each is not None]


def list_concerns(experiment: ExperimentFacts) -> list[str]:
    """What gets worse in the main arm, by name; the figures are in the table of concerns."""
    # Seeds often share a concern, and the first screen names it once.
    names = (
        f"{CONCERNS.get(concern.kind, concern.kind)} (iteration {concern.iteration})"
        for _, concern in experiment.concerns
        if concern.arm == experiment.main.name
    )
    return list(dict.fromkeys(names))


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
    name = diversity_answer.name_scale(each.scale)
    return f"{each.arm}: diversity {moved} ({before:.3f} to {after:.3f}{share}; {name})."


def name_other(verdict: ArmVerdict) -> str:
    """The other arm, or in words the main arm before tuning."""
    return "itself before tuning" if verdict.untuned else verdict.other


def _describe_size(chosen: Sequence[ArmVerdict]) -> str:
    changes = [each.comparison.by_question for each in chosen]
    # A rule of thumb, not a power analysis: the widest interval limits what can be seen.
    widest = max(max(abs(change.difference), _half(change)) for change in changes)
    return (
        f"Differences below about {100 * widest:.0f} points cannot be told from chance with these "
        "questions."
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


@dataclass(frozen=True, slots=True)
class Reading:
    """A share of the last society's answers or votes that count for nothing, or were drawn."""

    name: str
    share: float
    meaning: str
    lost: bool = True

    @property
    def alarming(self) -> bool:
        return self.lost and self.share >= MANY_UNREAD


def list_readings(experiment: ExperimentFacts) -> list[Reading]:
    """What was cut, unreadable or tied in the evaluation that the answer rests on."""
    voting = experiment.last_voting
    if voting is None:
        return []
    return [
        Reading("cut at the token limit", voting.truncated, "of all answers"),
        Reading("unreadable", voting.unparsed, "of all answers: they cast no vote"),
        Reading("tied votes", voting.ties, "of the questions: a hash decides", lost=False),
    ]


def advise_on_readings(experiment: ExperimentFacts) -> str | None:
    """What to do about answers that are lost; None where hardly any are."""
    voting = experiment.last_voting
    if voting is None or voting.unparsed < MANY_UNREAD:
        return None
    # Cut answers may be readable, so the larger part of the unread ones decides the advice.
    if voting.truncated >= voting.unparsed / 2:
        limit = dict(experiment.group.first.settings).get("sampling.max_tokens")
        return (
            "Most of what cannot be read was cut: raise sampling.max_tokens"
            f"{f' (now {limit})' if limit else ''}, and see how much of the result is left."
        )
    return "Look at these answers with `society view`: the task’s format may not be the model’s."


def _notice_unread(experiment: ExperimentFacts) -> Iterator[str]:
    shown = experiment.last_voting
    worst = max(experiment.main_votings, key=lambda each: each.unparsed, default=None)
    # The last society's own shares stand below the answer.
    told = shown is not None and shown.unparsed >= MANY_UNREAD
    if worst is not None and worst.unparsed >= MANY_UNREAD and not told:
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
