"""What a run has achieved so far, read from its store.

Every accuracy counts a question once. Only complete debates count (those with votes), and only
questions whose gold answer is known. Iteration 0 is the untuned society.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from evals.arm_kinds import MULTIAGENT
from evals.intervals import PairedDifference, Rate, paired_right, paired_shares, rate, wilson
from store.ledger import Store
from store.records import Decoding

Measure = Literal["single", "majority", "consensus"]
"""`single`: one agent alone in round 1, the mean over the agents. `majority`: the vote of round 1.
`consensus`: the vote of the last round."""

MEASURES: tuple[Measure, ...] = get_args(Measure)
DECODINGS: tuple[Decoding, ...] = get_args(Decoding)

# Without a task: the run's own questions, whatever their task is called.
_OF_TASK = """
    question_id in (
        select question_id from questions where if($task is null, not is_extra, task = $task))
"""
# One row per question: agents on the same question are not independent, so their mean is one value.
_SINGLE = f"""
    select question_id, avg(v.correct::int), count(*)
    from turns t join verdicts v using (turn_id)
    where {_OF_TASK} and t.kind = 'answer' and t.round = 1 and v.correct is not null
      and t.arm = $arm and t.split = 'eval' and t.decoding = $decoding
      and t.iteration = $iteration
    group by question_id order by question_id
"""
# The last round is that of the arm, not of the question: an arm's debates all have equally many.
_VOTE = f"""
    select question_id, correct::int::double, 1
    from votes
    where {_OF_TASK} and correct is not null
      and arm = $arm and split = 'eval' and decoding = $decoding and iteration = $iteration
      and round = coalesce($round, (
          select max(round) from votes where arm = $arm and split = 'eval'))
    order by question_id
"""
# The view has a row per round; the last one is the society's.
_CONSENSUS_RATE = """
    select mean_share from consensus
    where task in (select task from questions where if($task is null, not is_extra, task = $task))
      and arm = $arm and split = 'eval' and decoding = $decoding and iteration = $iteration
    order by round desc limit 1
"""
# A left join, as `label_health` leaves out arms whose labels are gold.
_LABELS = """
    select p.iteration, p.questions, labelled, p.known, p.label_accuracy, p.coverage,
           coalesce(p.tie_rate, 0), coalesce(below_quorum, 0), unparsed, truncated
    from pseudo_labels p left join label_health h using (iteration, arm)
    where arm = ? order by iteration
"""
_EVALUATED = f"""
    select distinct iteration, decoding
    from votes where {_OF_TASK} and arm = $arm and split = 'eval' and correct is not null
"""
_EXTRA_TASKS = "select task from questions where is_extra group by task order by task"


@dataclass(frozen=True, slots=True)
class LabelHealth:
    """The pseudo-labels that iteration `iteration` learnt from, on its training questions.

    `accuracy` compares the labels with gold, which nothing else in a run does; None if gold is
    unknown or nothing was labelled. `coverage` is the share of questions with a
    label, `ties` the share whose vote was a tie, `below_quorum` the share with too few voters.
    `unparsed` is the share of the answers of that vote that could not be read, `truncated` of those
    cut at the token limit; None where the labels are gold.
    """

    iteration: int
    questions: int
    labelled: int
    accuracy: Rate | None
    coverage: float
    ties: float
    below_quorum: float
    unparsed: float | None
    truncated: float | None


@dataclass(frozen=True, slots=True)
class SocietyAccuracy:
    """One society under one decoding.

    `consensus_rate` is the mean share of the agents' last answers that equal the plurality answer,
    over questions with a readable answer; None where there is no such question.
    """

    iteration: int
    decoding: Decoding
    single: Rate
    majority: Rate
    consensus: Rate
    consensus_rate: float | None
    labels: LabelHealth | None

    def rate(self, measure: Measure) -> Rate:
        return {"single": self.single, "majority": self.majority, "consensus": self.consensus}[
            measure
        ]


def read_society_accuracies(
    store: Store, arm: str = MULTIAGENT, task: str | None = None
) -> list[SocietyAccuracy]:
    """One row per evaluated society and decoding, in order.

    `task` is the label of a task evaluated zero-shot; by default the run's own task is meant.
    """
    found = store.rows(_EVALUATED, {"arm": arm, "task": task})
    # Labels are of the training questions, which an extra task does not have.
    labels = {row.iteration: row for row in read_label_health(store, arm)} if task is None else {}
    # By place in DECODINGS and not by name: sampled comes before greedy in every table.
    keys = sorted((int(i), DECODINGS.index(d)) for i, d in found)
    return [_row(store, arm, i, DECODINGS[d], labels.get(i), task) for i, d in keys]


def list_extra_tasks(store: Store) -> list[str]:
    """The labels of the extra tasks that a run is evaluated on, sorted: tasks that it never trains
    on, and the stages of its curriculum."""
    return [str(task) for (task,) in store.rows(_EXTRA_TASKS)]


def parse_curriculum_stage(label: str) -> int | None:
    """The curriculum stage that a label such as "math@2" names; None for a zero-shot task."""
    _, mark, number = label.rpartition("@")
    return int(number) if mark and number.isdecimal() else None


def title_task(label: str) -> str:
    """An extra task's heading."""
    stage = parse_curriculum_stage(label)
    return f"Zero-shot: {label}" if stage is None else f"Curriculum, stage {stage}: {label}"


def read_by_question(
    store: Store,
    measure: Measure,
    decoding: Decoding,
    iteration: int,
    arm: str = MULTIAGENT,
    task: str | None = None,
) -> dict[str, float]:
    """By evaluation question: 1 right, 0 wrong; for `single` the share of agents right."""
    marks = _marks(store, measure, decoding, iteration, arm, task)
    return {question: right for question, right, _ in marks}


def compare_iterations(
    store: Store,
    measure: Measure,
    decoding: Decoding,
    before: int,
    after: int,
    arm: str = MULTIAGENT,
    task: str | None = None,
) -> PairedDifference | None:
    """Iteration `after` minus iteration `before` on the questions that both have answered.

    None where they share fewer than two questions.
    """
    first = read_by_question(store, measure, decoding, before, arm, task)
    second = read_by_question(store, measure, decoding, after, arm, task)
    shared = sorted(first.keys() & second.keys())
    # With one question there is no variance, and so no interval.
    if len(shared) < 2:
        return None
    if measure == "single":
        return paired_shares([first[q] for q in shared], [second[q] for q in shared])
    return paired_right([first[q] == 1 for q in shared], [second[q] == 1 for q in shared])


def read_label_health(store: Store, arm: str = MULTIAGENT) -> list[LabelHealth]:
    """The pseudo-labels of every iteration that has debated training questions, in order."""
    return [
        LabelHealth(
            iteration,
            questions,
            labelled,
            None if share is None else Rate(share, *wilson(share, known), known),
            coverage,
            ties,
            below_quorum / questions,
            *read,
        )
        for iteration, questions, labelled, known, share, coverage, ties, below_quorum, *read in (
            store.rows(_LABELS, [arm])
        )
    ]


def _marks(
    store: Store,
    measure: Measure,
    decoding: Decoding,
    iteration: int,
    arm: str,
    task: str | None,
) -> list[tuple[str, float, int]]:
    """Every evaluation question with known gold: the share that is right, of so many answers."""
    which: dict[str, object] = {
        "arm": arm,
        "decoding": decoding,
        "iteration": iteration,
        "task": task,
    }
    if measure == "single":
        return store.rows(_SINGLE, which)
    return store.rows(_VOTE, which | {"round": 1 if measure == "majority" else None})


def _row(
    store: Store,
    arm: str,
    iteration: int,
    decoding: Decoding,
    labels: LabelHealth | None,
    task: str | None,
) -> SocietyAccuracy:
    single, majority, consensus = (
        _rate(_marks(store, measure, decoding, iteration, arm, task)) for measure in MEASURES
    )
    which = {"arm": arm, "decoding": decoding, "iteration": iteration, "task": task}
    shares = store.rows(_CONSENSUS_RATE, which)
    agreement = shares[0][0] if shares else None
    return SocietyAccuracy(iteration, decoding, single, majority, consensus, agreement, labels)


def _rate(marks: Sequence[tuple[str, float, int]]) -> Rate:
    # The agents' answers to one question are not independent. `rate` widens the interval
    # accordingly from the shares per question and the number of answers.
    return rate([right for _, right, _ in marks], sum(answers for *_, answers in marks))
