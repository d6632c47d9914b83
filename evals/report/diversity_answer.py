"""Whether the agents of the main arm stay different: yes, no, or it cannot be told.

Yes: the 95 % interval after the last iteration excludes that more than a tenth of the untuned
society's diversity is gone. No: the interval lies below that of the untuned society. Agreement,
which every run has, answers less: better answers agree more by themselves. So it says yes if the
interval excludes that agreement has risen by more than 5 points, no if it has risen and single
agents are not shown to be better, and else that nothing can be told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evals.report.diversities import Scale, Survival, find_survival
from evals.report.facts import ExperimentFacts

KEPT = 0.9
"""The share of the untuned diversity from which on it counts as kept."""
RISEN = 0.05
"""By how much agreement may have risen and still count as no more than before."""
# Responses that agree with the vote first: wrong answers differ from each other anyway.
_SCALES = (("embedding", "agreeing"), ("embedding", "all"), ("agreement", "all"))
_OF = {"agreeing": "first answers that agree with the vote", "all": "first answers"}


@dataclass(frozen=True, slots=True)
class DiversityAnswer:
    """The plain answer, and what it rests on."""

    word: Literal["Yes", "No", "Can’t tell"]
    text: str

    @property
    def outcome(self) -> str:
        """As an outcome is marked."""
        return {"Yes": "better", "No": "worse"}.get(self.word, "unclear")


def answer_diversity(experiment: ExperimentFacts) -> DiversityAnswer | None:
    """None for a society of one agent, and before anything was evaluated."""
    if experiment.main.agents == 1 or not experiment.main_votings:
        return None
    found = find_main_survival(experiment)
    if found is None:
        return DiversityAnswer(
            "Can’t tell", "The society is not evaluated both before tuning and after it."
        )
    if found.scale.measure == "agreement":
        return _judge_agreement(experiment, found)
    return _judge_distance(found)


def find_main_survival(experiment: ExperimentFacts, arm: str | None = None) -> Survival | None:
    """The diversity of an arm (the main one) by the best measure that the run has."""
    known = dict.fromkeys(each.scale for each in experiment.diversities)
    for measure, responses in _SCALES:
        for scale in known:
            if (scale.measure, scale.role, scale.responses) == (measure, "generator", responses):
                name = arm or experiment.main.name
                survival = find_survival(experiment.diversities, name, scale, experiment.decoding)
                if survival is not None:
                    return survival
    return None


def name_scale(scale: Scale) -> str:
    """What is measured, in words."""
    if scale.measure == "agreement":
        return f"{scale.unit}, {_OF[scale.responses]}"
    return f"{scale.unit} of {_OF[scale.responses]}, {scale.encoder}"


def _judge_distance(found: Survival) -> DiversityAnswer:
    before, after = found.before.value, found.after.value
    # Equal greedy answers: a share of nothing cannot be left.
    if before <= 0:
        return DiversityAnswer("Can’t tell", "The untuned answers do not differ by this measure.")
    left = (
        f"{100 * after / before:.0f} % of the diversity before tuning is left (95 % interval "
        f"{100 * found.after.low / before:.0f} to {100 * found.after.high / before:.0f} %), by the "
        f"{found.scale.measure} of {_OF[found.scale.responses]}."
    )
    # Tested before the intervals are set apart: a small loss may be certain and yet be small.
    if found.after.low >= KEPT * before:
        return DiversityAnswer("Yes", left)
    if found.apart and after < before:
        return DiversityAnswer("No", left)
    return DiversityAnswer(
        "Can’t tell", f"{left} For a yes the interval must lie above {100 * KEPT:.0f} %."
    )


def _judge_agreement(experiment: ExperimentFacts, found: Survival) -> DiversityAnswer:
    before, after = 100 * found.before.value, 100 * found.after.value
    change = f"{before:.1f} % of the first answers had the plurality answer, now {after:.1f} %."
    if found.after.high <= found.before.value + RISEN:
        return DiversityAnswer("Yes", f"The agents agree no more than untuned: {change}")
    if not found.apart:
        return DiversityAnswer("Can’t tell", f"{change} The 95 % intervals overlap.")
    # Agents that are right agree, however differently they got there.
    if _has_improved(experiment):
        return DiversityAnswer(
            "Can’t tell",
            f"{change} Better answers agree more by themselves; `society diversity` measures how "
            "differently they are reached.",
        )
    return DiversityAnswer(
        "No", f"The agents agree more, and are not shown to be right more often: {change}"
    )


def _has_improved(experiment: ExperimentFacts) -> bool:
    """Whether a single agent is shown to be better than before tuning; True without gold."""
    found = [
        verdict.outcome
        for each in experiment.verdicts
        if each.measure == "single" and each.task is None
        for verdict in each.verdicts
        if experiment.is_untuned_main(verdict)
    ]
    return not found or "better" in found
