"""The society against every other arm, on the same questions, and what that says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from evals import stored_run
from evals.comparison import Comparison, compare, corrected
from evals.metrics import Decoding, Measure
from evals.report.accuracies import Accuracies
from evals.report.experiments import Experiment

Outcome = Literal["better", "worse", "unclear"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The society minus one other arm, or minus itself before any tuning (`untuned`)."""

    other: str
    untuned: bool
    comparison: Comparison

    @property
    def outcome(self) -> Outcome:
        """Better or worse only where the corrected test says so and the interval in which every
        question counts once leaves out zero."""
        change = self.comparison.by_question
        clear = self.comparison.significant and not change.low <= 0 <= change.high
        if not clear:
            return "unclear"
        return "better" if change.difference > 0 else "worse"

    @property
    def p_value(self) -> float:
        """That of the comparison, with Holm's correction where several arms are compared."""
        holm = self.comparison.p_holm
        return holm if holm is not None else self.comparison.p_value


@dataclass(frozen=True, slots=True)
class Verdicts:
    """All comparisons by one measure, on one task (None: the runs' own)."""

    measure: Measure
    decoding: Decoding
    task: str | None
    verdicts: tuple[Verdict, ...]


def read(experiment: Experiment, accuracies: Accuracies) -> list[Verdicts]:
    """By the vote of the last round first, then for a single agent; zero-shot tasks by vote."""
    decodings = accuracies.decodings()
    if not decodings:
        return []
    asked: list[tuple[Measure, Decoding, str | None]] = [("consensus", decodings[0], None)]
    asked += [("single", decoding, None) for decoding in decodings]
    for task in accuracies.tasks():
        asked += [("consensus", decoding, task) for decoding in accuracies.decodings(task)[:1]]
    found = (_verdicts(experiment, accuracies, *which) for which in asked)
    return [verdicts for verdicts in found if verdicts.verdicts]


def _verdicts(
    experiment: Experiment,
    accuracies: Accuracies,
    measure: Measure,
    decoding: Decoding,
    task: str | None,
) -> Verdicts:
    society = experiment.main.name
    if (found := accuracies.last(society, decoding, measure, task)) is None:
        return Verdicts(measure, decoding, task, ())
    last = found.key.stage.iteration
    against: list[tuple[str, int]] = []
    twin = stored_run.find_untuned_twin(experiment.arms)
    before = accuracies.of(society, 0, decoding, measure, task)
    if last > 0 and before is not None and twin is None:
        against.append((society, 0))
    for arm in experiment.arms:
        at = accuracies.last(arm.name, decoding, measure, task)
        if arm.name != society and at is not None:
            against.append((arm.name, at.key.stage.iteration))
    changes = (
        compare(experiment.stores, society, other, measure, decoding, last, at, task)
        for other, at in against
    )
    compared = corrected([change for change in changes if change is not None])
    return Verdicts(
        measure,
        decoding,
        task,
        tuple(Verdict(each.b.stage.arm, each.b.stage.arm == society, each) for each in compared),
    )


def primary(verdicts: Sequence[Verdicts]) -> Verdicts | None:
    """The one that answers the question: votes on the runs' own task."""
    own = [each for each in verdicts if each.task is None and each.measure == "consensus"]
    return own[0] if own else None
