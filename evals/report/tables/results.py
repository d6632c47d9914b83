"""What came out: the comparisons, the paper's Table 1, accuracy by iteration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from evals.metrics import apart
from evals.report.cells import (
    Cell,
    Column,
    Number,
    Percent,
    Points,
    PValue,
    Table,
    Text,
    points,
    seeds,
)
from evals.report.facts import ExperimentFacts, Facts
from evals.report.published import CITATION, MODELS
from evals.report.saying import name
from evals.report.tables.rows import arm, society, spanning
from evals.report.verdicts import Verdict, primary
from evals.report.votings import Voting

MEASURES = {"single": "single agent", "consensus": "vote", "majority": "round-1 vote"}
_READINGS = (
    "Tied: share of last votes without a single winner; the tied answer that comes first in a hash "
    "of seed, question and answer counts as the vote's. Unread: share of all answers in which none "
    "could be read, which count as wrong and cast no vote; cut: at the token limit."
)
OUTCOMES = {"better": "better", "worse": "worse", "unclear": "no difference shown"}


def tables(facts: Facts) -> list[Table]:
    """The summary, every comparison, Table 1, the paper's numbers, then accuracy task by task."""
    return [
        _summary(facts),
        _verdicts(facts),
        _table_one(facts),
        _published(facts),
        _accuracy(facts, None, "accuracy", "Accuracy by iteration"),
        *(_accuracy(facts, t, f"zero-shot-{t}", apart(t)) for t in facts.tasks),
        _votes(facts),
    ]


def _summary(facts: Facts) -> Table:
    measured = [
        (each.measure, each.decoding)
        for experiment in facts.experiments
        for each in experiment.verdicts
        if each.task is None
    ]
    which = list(dict.fromkeys(measured))
    columns = [
        Column("against", "against", text=True),
        Column("so it is", "outcome", text=True),
    ]
    columns += [
        Column(f"{MEASURES[measure]}, {decoding}", f"{measure}_{decoding}", interval=True)
        for measure, decoding in which
    ]
    columns += [
        Column("p (vote)", "p"),
        Column("vote by seed", "by_seed", text=True),
    ]

    def rows(experiment: ExperimentFacts) -> Iterator[tuple[Cell, ...]]:
        votes = primary(experiment.verdicts)
        found = {
            (each.measure, each.decoding, verdict.other): verdict
            for each in experiment.verdicts
            for verdict in each.verdicts
            if each.task is None
        }
        for verdict in votes.verdicts if votes else ():
            others = (found.get((*each, verdict.other)) for each in which)
            yield (
                Text(name(verdict)) if verdict.untuned else arm(verdict.other),
                Text(OUTCOMES[verdict.outcome], outcome=verdict.outcome),
                *(Points(each.comparison.by_question if each else None) for each in others),
                PValue(verdict.p_value),
                _by_seed(verdict),
            )

    note = (
        "The society after its last iteration minus the other after its own last, on the same "
        "questions, in percentage points with 95 % intervals over questions. p: exact McNemar on "
        "the votes, with several seeds the test of the questions' mean differences; Holm's "
        "correction over the arms. Better or worse is said where p is below 0.05 and the interval "
        "leaves out zero."
    )
    return spanning(facts, "summary", "The society against the others", columns, rows, note)


def _by_seed(verdict: Verdict) -> Text:
    runs = verdict.comparison.runs
    shown = ", ".join(points(run.change.difference) for run in runs)
    return Text(shown if len(runs) > 1 else "–")


def _verdicts(facts: Facts) -> Table:
    columns = [
        Column("task", "task", text=True),
        Column("measure", "measure", text=True),
        Column("society after", "iteration", text=True),
        Column("against", "against", text=True),
        Column("after", "against_iteration", text=True),
        Column("society, %", "society"),
        Column("the other, %", "other"),
        Column("difference, points", "difference", interval=True),
        Column("gained", "gained"),
        Column("lost", "lost"),
        Column("p", "p"),
        Column("by seed, points", "by_seed", text=True),
        Column("so it is", "outcome", text=True),
    ]
    note = (
        "The society minus the other on the same questions. With several seeds a question counts "
        "once, with its mean over the seeds; gained and lost count every seed's questions. p: "
        "exact McNemar, or the test of the questions' mean differences where a question can be "
        "right in part or there are several seeds; Holm's correction over the arms of a measure. "
        "Intervals: 95 %, Newcombe's, or the normal one over questions where a question can be "
        "right in part."
    )
    return spanning(facts, "comparisons", "Every comparison", columns, _verdict_rows, note)


def _verdict_rows(experiment: ExperimentFacts) -> Iterator[tuple[Cell, ...]]:
    for verdicts in experiment.verdicts:
        for verdict in verdicts.verdicts:
            comparison = verdict.comparison
            change, pooled = comparison.by_question, comparison.pooled
            yield (
                Text(verdicts.task or experiment.experiment.first.task),
                Text(f"{MEASURES[verdicts.measure]}, {verdicts.decoding}"),
                society(comparison.a.stage.iteration),
                arm(verdict.other),
                society(comparison.b.stage.iteration),
                Percent(change.after, interval=False),
                Percent(change.before, interval=False),
                Points(change),
                Number(pooled.gained),
                Number(pooled.lost),
                PValue(verdict.p_value),
                _by_seed(verdict),
                Text(OUTCOMES[verdict.outcome], outcome=verdict.outcome),
            )


def _table_one(facts: Facts) -> Table:
    own = list(dict.fromkeys(each.experiment.first.task for each in facts.experiments))
    unseen = [task for task in facts.tasks if task not in own]
    columns = [Column("arm", "arm", text=True), Column("after", "iteration", text=True)]
    columns += [Column(f"{task}, vote", f"{task}_vote", interval=True) for task in own]
    columns += [Column(f"{task}, single agent", f"{task}_single", interval=True) for task in own]
    columns += [Column(f"{apart(task)}, vote", f"{task}_vote", interval=True) for task in unseen]

    def rows(experiment: ExperimentFacts) -> Iterator[tuple[Cell, ...]]:
        here = experiment.experiment.first.task
        decoding, values = experiment.decoding, experiment.accuracies
        for each in experiment.arms:
            if (vote := values.last(each.name, decoding, "consensus")) is None:
                continue
            single = values.last(each.name, decoding, "single")
            cells: list[Cell] = [arm(each.name), society(vote.key.stage.iteration)]
            cells += [Percent.of(vote.rate if task == here else None) for task in own]
            cells += [Percent.of(single.rate if single and task == here else None) for task in own]
            found = (values.last(each.name, decoding, "consensus", task) for task in unseen)
            cells += [Percent.of(other.rate if other else None) for other in found]
            yield tuple(cells)

    note = (
        "Accuracy in % with its 95 % interval over questions, after each arm's last iteration, "
        f"{_decodings(facts)}. Vote: of the last round; where an arm has one round or one agent, "
        "of its samples, or its answer. Single agent: the mean over the agents in round 1."
    )
    return spanning(facts, "table-1", "Arms and tasks", columns, rows, note)


def _decodings(facts: Facts) -> str:
    return " or ".join(dict.fromkeys(each.decoding for each in facts.experiments))


def _published(facts: Facts) -> Table:
    columns = [Column("task", "task", text=True), Column("method", "arm", text=True)]
    columns += [Column(model, model) for model in MODELS]
    rows: Iterable[tuple[Cell, ...]] = (
        (Text(each.task), Text(each.arm), *(Number(value, 2) for value in each.accuracies))
        for each in facts.published
    )
    note = (
        f"Not results of these runs: accuracy in % as {CITATION} reports it, for models, questions "
        "and prompts of its own (3 agents, 2 rounds, 500 questions, MATH of levels 1 to 3)."
    )
    return Table("published", "What the paper reports", tuple(columns), tuple(rows), note)


def _accuracy(facts: Facts, task: str | None, name: str, title: str) -> Table:
    columns = [
        Column("arm", "arm", text=True),
        Column("after", "iteration", text=True),
        Column("decoding", "decoding", text=True),
        Column("single agent", "single", interval=True),
        Column("round-1 majority", "majority", interval=True),
        Column("consensus", "consensus", interval=True),
        Column("consensus by seed", "consensus_by_seed", text=True),
        Column("agreement", "agreement", interval=True),
        Column("tied", "tied"),
        Column("unread", "unparsed"),
        Column("cut", "truncated"),
        Column("questions", "questions"),
    ]

    def rows(experiment: ExperimentFacts) -> Iterator[tuple[Cell, ...]]:
        values = experiment.accuracies
        for each in experiment.arms:
            for decoding in values.decodings(task):
                for vote in values.iterations(each.name, decoding, "consensus", task):
                    i = vote.key.stage.iteration
                    quantities = (
                        values.of(each.name, i, decoding, quantity, task)
                        for quantity in ("single", "majority", "consensus", "agreement-last")
                    )
                    single, majority, consensus, agreement = (
                        Percent.of(found.rate if found else None) for found in quantities
                    )
                    yield (
                        arm(each.name), society(i), Text(decoding), single, majority, consensus,
                        Text(seeds(vote.seeds) or "–"), agreement,
                        *_readings(experiment.voting(each.name, i, decoding, task)),
                        Number(vote.rate.total),
                    )  # fmt: skip

    note = (
        "Accuracy in % with its 95 % interval over questions (Wilson; where a question can be "
        "right in part, with the effective number of independent answers). Agreement: mean share "
        f"of the agents' last readable answers that equal the plurality answer. {_READINGS}"
    )
    return spanning(facts, name, title, columns, rows, note)


def _readings(voting: Voting | None) -> Iterator[Cell]:
    shares = (voting.ties, voting.unparsed, voting.truncated) if voting else (None,) * 3
    return (Percent(share, interval=False) for share in shares)


def _votes(facts: Facts) -> Table:
    columns = [
        Column("task", "task", text=True),
        Column("arm", "arm", text=True),
        Column("after", "iteration", text=True),
        Column("decoding", "decoding", text=True),
        Column("questions", "questions"),
        Column("with gold", "known"),
        Column("agree, round 1", "agreement_first"),
        Column("agree, last round", "agreement_last"),
        Column("turned to the vote", "to_label"),
        Column("turned away", "from_label"),
        Column("no answer", "no_answer"),
        Column("tied", "tied"),
        Column("unread", "unparsed"),
        Column("cut", "truncated"),
    ]

    def rows(experiment: ExperimentFacts) -> Iterator[tuple[Cell, ...]]:
        for each in experiment.votings:
            shares = (each.first, each.last, each.to_label, each.from_label, 1 - each.coverage)
            yield (
                Text(each.task or experiment.experiment.first.task), arm(each.arm),
                society(each.iteration), Text(each.decoding), Number(each.questions),
                Number(each.known), *(Percent(share, interval=False) for share in shares),
                *_readings(each),
            )  # fmt: skip

    note = (
        "In %, means over the seeds; none of it needs gold. Agree: mean share of the readable "
        "answers that have the plurality answer. Turned: an agent's own answer came to that of the "
        "last vote between round 1 and the last round, or left it. No answer: share of the "
        f"questions on which no agent has a readable one. {_READINGS}"
    )
    return spanning(facts, "votes", "How the agents vote", columns, rows, note)
