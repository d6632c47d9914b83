"""What came out: the comparisons, the paper's Table 1, accuracy by iteration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from evals.agreement import Agreement
from evals.intervals import Rate
from evals.metrics import Measure, title_task
from evals.report.accuracies import Accuracy, Quantity
from evals.report.comparisons import ArmVerdict, find_primary
from evals.report.facts import ExperimentFacts, Facts
from evals.report.published import CITATION, MODELS, Published
from evals.report.sentences import name_other
from evals.report.table import (
    ARM,
    DIFFERENCE,
    NOTHING,
    NUMBER,
    P_VALUE,
    PERCENT,
    PERCENT_INTERVAL,
    SOCIETY,
    Cell,
    Column,
    Format,
    ReportTable,
    TableSpec,
    decimals,
    fill,
    list_seeds,
    show_points,
)
from evals.stored_run import ArmSettings
from store.records import Decoding

MEASURES: dict[Measure, str] = {
    "single": "single agent",
    "consensus": "vote",
    "majority": "round-1 vote",
}
OUTCOME_NOTE = "Better or worse is said where p is below 0.05 and the interval leaves out zero."
OUTCOMES = {"better": "better", "worse": "worse", "unclear": "no difference shown"}
TIED_NOTE = (
    "Tied: share of last votes without a single winner; the tied answer that comes first in a hash "
    "of seed, question and answer counts as the vote's."
)
UNREAD_NOTE = (
    "Unread: share of all answers in which none could be read, which count as wrong and cast no "
    "vote; cut: at the token limit."
)


def build_tables(facts: Facts) -> list[ReportTable]:
    """The summary, every comparison, Table 1, the paper's numbers, then accuracy task by task."""
    return [
        _summary(facts).build(facts),
        _COMPARISONS.build(facts),
        _table_one(facts).build(facts),
        _build_published(facts),
        _accuracy(None, "accuracy", "Accuracy by iteration").build(facts),
        *(_accuracy(t, f"zero-shot-{t}", title_task(t)).build(facts) for t in facts.tasks),
        _VOTES.build(facts),
    ]


def _write_outcome(verdict: ArmVerdict) -> Cell:
    words = OUTCOMES[verdict.outcome]
    return Cell(words, fields=(words,), outcome=verdict.outcome)


def _write_other(verdict: ArmVerdict) -> Cell:
    """The other arm; the main arm itself before tuning is not marked as an arm."""
    # “itself before tuning” is no arm, so there is no look to mark it with.
    cell = ARM.write(name_other(verdict))
    return replace(cell, arm=None) if verdict.untuned else cell


OUTCOME = Format(_write_outcome, text=True)
OTHER = Format(_write_other, text=True)


def list_differences(verdict: ArmVerdict) -> str:
    """The single seeds' differences in points; a dash for a single seed."""
    runs = verdict.comparison.runs
    shown = ", ".join(show_points(run.change.difference) for run in runs)
    return shown if len(runs) > 1 else NOTHING


@dataclass(frozen=True, slots=True)
class _Against:
    """The main arm against one other: by the vote, and by every measure and decoding."""

    verdict: ArmVerdict
    measured: Mapping[tuple[Measure, Decoding], ArmVerdict]

    def change(self, measure: Measure, decoding: Decoding) -> object:
        found = self.measured.get((measure, decoding))
        return found.comparison.by_question if found else None


def _summary(facts: Facts) -> TableSpec[_Against]:
    measured = [
        (each.measure, each.decoding)
        for experiment in facts.experiments
        for each in experiment.verdicts
        if each.task is None
    ]
    columns: list[Column[_Against]] = [
        Column("against", "against", lambda row: row.verdict, OTHER),
        Column("so it is", "outcome", lambda row: row.verdict, OUTCOME),
    ]
    # A measure that only one experiment has still gets a column; the others show a dash there.
    columns += [_summary_column(*which) for which in dict.fromkeys(measured)]
    columns += [
        Column("p (vote)", "p", lambda row: row.verdict.p_value, P_VALUE),
        Column("vote by seed", "by_seed", lambda row: list_differences(row.verdict)),
    ]
    note = (
        "The society after its last iteration minus the other after its own last, on the same "
        "questions, in percentage points with 95 % intervals over questions. p: "
        f"{name_test(facts)} with Holm's correction over the arms. {OUTCOME_NOTE}"
    )
    return TableSpec("summary", "The society against the others", columns, _list_against, note)


def name_test(facts: Facts) -> str:
    """The test of the votes; see `evals.comparison.Comparison`."""
    several = any(len(each.group.runs) > 1 for each in facts.experiments)
    return "test of the questions' mean differences" if several else "exact McNemar test"


def _summary_column(measure: Measure, decoding: Decoding) -> Column[_Against]:
    title, name = f"{MEASURES[measure]}, {decoding}", f"{measure}_{decoding}"
    return Column(title, name, lambda row: row.change(measure, decoding), DIFFERENCE)


def _list_against(experiment: ExperimentFacts) -> Iterator[_Against]:
    votes = find_primary(experiment.verdicts)
    for verdict in votes.verdicts if votes else ():
        # The summary speaks of the run's own task; zero-shot tasks have rows in the table of
        # comparisons.
        own = [each for each in experiment.verdicts if each.task is None]
        measured = {
            (each.measure, each.decoding): one
            for each in own
            for one in each.verdicts
            if one.other == verdict.other
        }
        yield _Against(verdict, measured)


@dataclass(frozen=True, slots=True)
class _Compared:
    """One comparison, by one measure on one task."""

    task: str
    measure: str
    verdict: ArmVerdict


def _list_compared(experiment: ExperimentFacts) -> Iterator[_Compared]:
    for each in experiment.verdicts:
        measure = f"{MEASURES[each.measure]}, {each.decoding}"
        for verdict in each.verdicts:
            yield _Compared(each.task or experiment.task, measure, verdict)


_COMPARISON_COLUMNS: Sequence[Column[_Compared]] = (
    Column("task", "task", lambda row: row.task),
    Column("measure", "measure", lambda row: row.measure),
    Column(
        "society after",
        "iteration",
        lambda row: row.verdict.comparison.a.stage.iteration,
        SOCIETY,
    ),
    Column("against", "against", lambda row: row.verdict.other, ARM),
    Column(
        "after",
        "against_iteration",
        lambda row: row.verdict.comparison.b.stage.iteration,
        SOCIETY,
    ),
    Column("society, %", "society", lambda row: row.verdict.change.after, PERCENT),
    Column("the other, %", "other", lambda row: row.verdict.change.before, PERCENT),
    Column("difference, points", "difference", lambda row: row.verdict.change, DIFFERENCE),
    Column("gained", "gained", lambda row: row.verdict.comparison.pooled.gained, NUMBER),
    Column("lost", "lost", lambda row: row.verdict.comparison.pooled.lost, NUMBER),
    Column(
        "p",
        "p",
        lambda row: row.verdict.p_value,
        P_VALUE,
        "p: exact McNemar, or the test of the questions' mean differences where a question's value "
        "is a mean; Holm's correction over the arms of a measure.",
    ),
    Column(
        "by seed, points",
        "by_seed",
        lambda row: list_differences(row.verdict),
        note="A question counts once, with its mean over the seeds; gained and lost count every "
        "seed's questions.",
    ),
    Column("so it is", "outcome", lambda row: row.verdict, OUTCOME),
)
_COMPARISONS = TableSpec(
    "comparisons",
    "Every comparison",
    _COMPARISON_COLUMNS,
    _list_compared,
    "The society minus the other on the same questions. Intervals: 95 %, Newcombe's, or the normal "
    "one over questions where a question can be right in part.",
)


@dataclass(frozen=True, slots=True)
class _ArmRow:
    """One arm after its last iteration."""

    experiment: ExperimentFacts
    arm: ArmSettings
    vote: Accuracy

    def rate(self, quantity: Quantity, task: str | None) -> Rate | None:
        values, decoding = self.experiment.accuracies, self.experiment.decoding
        found = values.find_last(self.arm.name, decoding, quantity, task)
        return found.rate if found else None


def _list_arms(experiment: ExperimentFacts) -> Iterator[_ArmRow]:
    for arm in experiment.arms:
        vote = experiment.accuracies.find_last(arm.name, experiment.decoding, "consensus")
        if vote is not None:
            yield _ArmRow(experiment, arm, vote)


# A function that makes the function: a lambda in a loop would see the loop's last task only.
def _own_rate(task: str, quantity: Quantity) -> Callable[[_ArmRow], Rate | None]:
    """The accuracy on the run's own task; nothing for a run of another task."""
    return lambda row: row.rate(quantity, None) if row.experiment.task == task else None


def _other_rate(task: str) -> Callable[[_ArmRow], Rate | None]:
    return lambda row: row.rate("consensus", task)


def _table_one(facts: Facts) -> TableSpec[_ArmRow]:
    # Experiments of different tasks share the table; each fills the columns of its own task.
    own = list(dict.fromkeys(each.task for each in facts.experiments))
    extra = [task for task in facts.tasks if task not in own]
    columns: list[Column[_ArmRow]] = [
        Column("arm", "arm", lambda row: row.arm.name, ARM),
        Column("after", "iteration", lambda row: row.vote.key.stage.iteration, SOCIETY),
    ]
    for quantity, words, name in (
        ("consensus", "vote", "vote"),
        ("single", "single agent", "single"),
    ):
        columns += [
            Column(
                f"{task}, {words}",
                f"{task}_{name}",
                _own_rate(task, quantity),  # type: ignore[arg-type]
                PERCENT_INTERVAL,
            )
            for task in own
        ]
    columns += [
        Column(f"{title_task(task)}, vote", f"{task}_vote", _other_rate(task), PERCENT_INTERVAL)
        for task in extra
    ]
    # Experiments may differ in their main decoding, and the note must hold for every row.
    decodings = " or ".join(dict.fromkeys(each.decoding for each in facts.experiments))
    note = (
        "Accuracy in % with its 95 % interval over questions, after each arm's last iteration, "
        f"{decodings}. Vote: of the last round; where an arm has one round or one agent, of its "
        "samples, or its answer. Single agent: the mean over the agents in round 1."
    )
    return TableSpec("table-1", "Arms and tasks", columns, _list_arms, note)


def _build_published(facts: Facts) -> ReportTable:
    columns: list[Column[Published]] = [
        Column("task", "task", lambda row: row.task),
        Column("method", "arm", lambda row: row.arm),
    ]
    columns += [_published_column(model, place) for place, model in enumerate(MODELS)]
    note = (
        f"Not results of these runs: accuracy in % as {CITATION} reports it, for models, questions "
        "and prompts of its own (3 agents, 2 rounds, 500 questions, MATH of levels 1 to 3)."
    )
    rows = fill(columns, facts.published)
    return ReportTable("published", "What the paper reports", tuple(columns), rows, note)


def _published_column(model: str, place: int) -> Column[Published]:
    return Column(model, model, lambda row: row.accuracies[place], decimals(2))


@dataclass(frozen=True, slots=True)
class _SocietyRow:
    """One arm after one iteration under one decoding; `rates` by quantity."""

    arm: str
    decoding: Decoding
    vote: Accuracy
    rates: Mapping[Quantity, Rate | None]
    voting: Agreement | None


def _list_societies(experiment: ExperimentFacts, task: str | None) -> Iterator[_SocietyRow]:
    values = experiment.accuracies
    quantities: tuple[Quantity, ...] = ("single", "majority", "consensus", "agreement-last")
    for arm in experiment.arms:
        # By arm, then decoding, then iteration: one arm's course can be read down the column.
        for decoding in values.list_decodings(task):
            # Only a society with a vote has a row: without one there is nothing to set the other
            # figures beside.
            for vote in values.list_iterations(arm.name, decoding, "consensus", task):
                stage = vote.key.stage
                rates = {
                    quantity: found.rate if (found := values.find(stage, quantity, task)) else None
                    for quantity in quantities
                }
                yield _SocietyRow(
                    arm.name, decoding, vote, rates, experiment.find_voting(stage, task)
                )


_ACCURACY_COLUMNS: Sequence[Column[_SocietyRow]] = (
    Column("arm", "arm", lambda row: row.arm, ARM),
    Column("after", "iteration", lambda row: row.vote.key.stage.iteration, SOCIETY),
    Column("decoding", "decoding", lambda row: row.decoding),
    Column("single agent", "single", lambda row: row.rates["single"], PERCENT_INTERVAL),
    Column("round-1 majority", "majority", lambda row: row.rates["majority"], PERCENT_INTERVAL),
    Column("consensus", "consensus", lambda row: row.rates["consensus"], PERCENT_INTERVAL),
    Column("consensus by seed", "consensus_by_seed", lambda row: list_seeds(row.vote.seeds)),
    Column(
        "agreement",
        "agreement",
        lambda row: row.rates["agreement-last"],
        PERCENT_INTERVAL,
        "Agreement: mean share of the agents' last readable answers that equal the plurality "
        "answer.",
    ),
    Column("tied", "tied", lambda row: row.voting and row.voting.ties, PERCENT, TIED_NOTE),
    Column(
        "unread", "unparsed", lambda row: row.voting and row.voting.unparsed, PERCENT, UNREAD_NOTE
    ),
    Column("cut", "truncated", lambda row: row.voting and row.voting.truncated, PERCENT),
    Column("questions", "questions", lambda row: row.vote.rate.total, NUMBER),
)


def _accuracy(task: str | None, name: str, title: str) -> TableSpec[_SocietyRow]:
    note = (
        "Accuracy in % with its 95 % interval over questions (Wilson; where a question can be "
        "right in part, with the effective number of independent answers)."
    )
    return TableSpec(
        name, title, _ACCURACY_COLUMNS, lambda experiment: _list_societies(experiment, task), note
    )


def _list_votings(experiment: ExperimentFacts) -> Iterator[Agreement]:
    for each in experiment.votings:
        yield replace(each, task=each.task or experiment.task)


_VOTE_COLUMNS: Sequence[Column[Agreement]] = (
    Column("task", "task", lambda each: each.task),
    Column("arm", "arm", lambda each: each.stage.arm, ARM),
    Column("after", "iteration", lambda each: each.stage.iteration, SOCIETY),
    Column("decoding", "decoding", lambda each: each.stage.decoding),
    Column("questions", "questions", lambda each: each.questions, NUMBER),
    Column("with gold", "known", lambda each: each.known, NUMBER),
    Column("agree, round 1", "agreement_first", lambda each: each.first, PERCENT),
    Column("agree, last round", "agreement_last", lambda each: each.last, PERCENT),
    Column(
        "turned to the vote",
        "to_label",
        lambda each: each.to_label,
        PERCENT,
        "Turned: an agent's own answer came to that of the last vote between round 1 and the last "
        "round, or left it.",
    ),
    Column("turned away", "from_label", lambda each: each.from_label, PERCENT),
    Column(
        "no answer",
        "no_answer",
        lambda each: 1 - each.coverage,
        PERCENT,
        "No answer: share of the questions on which no agent has a readable one.",
    ),
    Column("tied", "tied", lambda each: each.ties, PERCENT, TIED_NOTE),
    Column("unread", "unparsed", lambda each: each.unparsed, PERCENT, UNREAD_NOTE),
    Column("cut", "truncated", lambda each: each.truncated, PERCENT),
)
_VOTES = TableSpec(
    "votes",
    "How the agents vote",
    _VOTE_COLUMNS,
    _list_votings,
    "In %; none of it needs gold. Agree: mean share of the readable answers that have the "
    "plurality answer.",
)
