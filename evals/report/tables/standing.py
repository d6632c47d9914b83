"""Every arm after its last iteration beside the main one: the table that answers which is best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evals.agreement import Agreement
from evals.report.accuracies import Accuracy, Quantity
from evals.report.comparisons import ArmVerdict, find_primary
from evals.report.facts import ExperimentFacts, Facts
from evals.report.table import (
    ARM,
    DIFFERENCE,
    NOTHING,
    P_VALUE,
    PERCENT,
    PERCENT_INTERVAL,
    SOCIETY,
    Cell,
    Column,
    Format,
    ReportTable,
    TableSpec,
    list_seeds,
)
from evals.report.tables.results import (
    OUTCOME,
    OUTCOME_NOTE,
    TIED_NOTE,
    UNREAD_NOTE,
    list_differences,
    name_test,
)
from store.records import StageKey


@dataclass(frozen=True, slots=True)
class _Standing:
    """One arm after one iteration; `verdict` is the main arm minus it, None for the main arm."""

    experiment: ExperimentFacts
    arm: str
    iteration: int
    voting: Agreement | None
    verdict: ArmVerdict | None

    def rate(self, quantity: Quantity) -> object:
        found = self._find(quantity)
        return found.rate if found else None

    @property
    def seeds(self) -> str:
        found = self._find("consensus")
        return list_seeds(found.seeds) if found else NOTHING

    def _find(self, quantity: Quantity) -> Accuracy | None:
        stage = StageKey(self.iteration, "eval", self.arm, self.experiment.decoding)
        return self.experiment.accuracies.find(stage, quantity)


def build_table(facts: Facts) -> ReportTable:
    """One row per arm, and one for the main arm before any tuning."""
    note = "After each arm's last iteration; in % with 95 % intervals over questions."
    return TableSpec("arms", "Every arm", _list_columns(facts), _list_standings, note).build(facts)


def _list_standings(experiment: ExperimentFacts) -> Iterator[_Standing]:
    primary = find_primary(experiment.verdicts)
    verdicts = primary.verdicts if primary else ()
    for arm in sorted(experiment.arms, key=lambda each: each.name != experiment.main.name):
        last = max(
            (
                each.stage.iteration
                for each in experiment.votings
                if (each.task, each.stage.arm) == (None, arm.name)
            ),
            default=0,
        )
        # Without gold no accuracy says which iteration is the last: the votes do.
        found = experiment.accuracies.find_last(arm.name, experiment.decoding, "consensus")
        iteration = found.key.stage.iteration if found else last
        against = [v for v in verdicts if v.other == arm.name and not v.untuned]
        yield _stand(experiment, arm.name, iteration, against[0] if against else None)
        for verdict in verdicts:
            if arm == experiment.main and verdict.untuned:
                yield _stand(experiment, arm.name, 0, verdict)


def _stand(
    experiment: ExperimentFacts, arm: str, iteration: int, verdict: ArmVerdict | None
) -> _Standing:
    stage = StageKey(iteration, "eval", arm, experiment.decoding)
    return _Standing(experiment, arm, iteration, experiment.find_voting(stage), verdict)


def _write_outcome(verdict: ArmVerdict | None) -> Cell:
    return OUTCOME.write(verdict) if verdict else Cell(NOTHING)


def _list_columns(facts: Facts) -> Sequence[Column[_Standing]]:
    return (
        Column("arm", "arm", lambda row: row.arm, ARM),
        Column("after", "iteration", lambda row: row.iteration, SOCIETY),
        Column("vote right", "vote", lambda row: row.rate("consensus"), PERCENT_INTERVAL),
        Column("by seed", "by_seed", lambda row: row.seeds),
        Column(
            "society minus it",
            "difference",
            lambda row: row.verdict and row.verdict.change,
            DIFFERENCE,
            "Society minus it: in percentage points, on the same questions.",
        ),
        Column(
            "the society is",
            "outcome",
            lambda row: row.verdict,
            Format(_write_outcome, text=True),
            OUTCOME_NOTE,
        ),
        Column(
            "p",
            "p",
            lambda row: row.verdict.p_value if row.verdict else None,
            P_VALUE,
            f"p: {name_test(facts)} with Holm's correction over the arms.",
        ),
        Column(
            "difference by seed",
            "difference_by_seed",
            lambda row: list_differences(row.verdict) if row.verdict else NOTHING,
        ),
        Column(
            "one agent alone",
            "single",
            lambda row: row.rate("single"),
            PERCENT_INTERVAL,
            "One agent alone: mean over the agents' first answers.",
        ),
        Column(
            "agree",
            "agreement",
            lambda row: row.voting and row.voting.last,
            PERCENT,
            "Agree: mean share of the last readable answers that have the plurality answer.",
        ),
        Column("tied", "tied", lambda row: row.voting and row.voting.ties, PERCENT, TIED_NOTE),
        Column(
            "unread",
            "unparsed",
            lambda row: row.voting and row.voting.unparsed,
            PERCENT,
            UNREAD_NOTE,
        ),
        Column("cut", "truncated", lambda row: row.voting and row.voting.truncated, PERCENT),
    )
