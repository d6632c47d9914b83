"""Does one arm beat another on the same questions, by how much, and is that noise?

Two systems (an arm, an iteration, a decoding, a measure each) are compared on the questions that
both have answered, in one run or in several runs of other seeds. Every difference is A minus B.

Three things are told about several runs, because none of them says all:

- `pooled`: every question of every run is a unit of its own. It knows nothing of how much training
  differs from seed to seed, and where the runs ask the same questions it takes them for more than
  they are.
- `by_question`: a unit is a question with its mean over the runs, so that a question asked in
  several runs counts once. The p-value is that of this. Also blind to the seeds.
- `seeds`: every run's own difference, their mean, range and t interval. With few runs it is wide;
  it is the one that speaks about training the same thing again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from statistics import fmean, stdev

from evals import metrics
from evals.intervals import (
    PairedDifference,
    paired_p_value,
    paired_right,
    paired_shares,
    t95,
)
from evals.metrics import Measure
from store.ledger import Store
from store.records import Decoding, StageKey

# Differences of floats: runs that differ by no more are taken as equal.
_ALIKE = 1e-9
_EVALUATED = """
    select distinct iteration from votes
    where arm = $arm and split = 'eval' and decoding = $decoding and correct is not null
      and question_id in (
          select question_id from questions where if($task is null, not is_extra, task = $task))
"""


@dataclass(frozen=True, slots=True)
class System:
    """What is compared: an evaluated stage, and which of its answers count."""

    stage: StageKey
    measure: Measure


@dataclass(frozen=True, slots=True)
class Side:
    """A system in the run that its answers are stored in."""

    store: Store
    system: System


@dataclass(frozen=True, slots=True)
class RunDifference:
    """A minus B in one run, or in two: then both are named, and the seed is that of A."""

    run: str
    seed: int
    change: PairedDifference


@dataclass(frozen=True, slots=True)
class Seeds:
    """The runs' differences as a sample of their own, in shares of 1.

    `low` and `high` are the 95 % t interval of the mean; None with a single run, and where all runs
    differ by the same, which does not tell how much the next one would. `smallest` and
    `largest` are the range.
    """

    mean: float
    smallest: float
    largest: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A minus B. In every `PairedDifference` here `after` is A and `before` is B.

    `task` is None for the runs' own task, else the label of one evaluated zero-shot. `p_value` is
    that of `by_question`: exact McNemar where a question was asked once and is right or wrong, else
    a normal approximation (`evals.intervals.paired_p_value`). `p_holm` is corrected for the number
    of comparisons it was made with (Holm 1979, Scand. J. Statist. 6:65), None if it stands alone.
    """

    a: System
    b: System
    task: str | None
    pooled: PairedDifference
    by_question: PairedDifference
    runs: tuple[RunDifference, ...]
    p_value: float
    p_holm: float | None = None

    @property
    def seeds(self) -> Seeds:
        found = [run.change.difference for run in self.runs]
        mean = fmean(found)
        low = high = None
        # Equal differences have no spread, and an interval of width zero would claim certainty.
        if len(found) > 1 and max(found) - min(found) > _ALIKE:
            half = t95(len(found) - 1) * stdev(found) / sqrt(len(found))
            low, high = max(-1.0, mean - half), min(1.0, mean + half)
        return Seeds(mean, min(found), max(found), low, high)

    @property
    def significant(self) -> bool:
        """Whether chance alone would rarely do this: p, corrected where it is, below 0.05."""
        return (self.p_value if self.p_holm is None else self.p_holm) < 0.05


def compare(
    stores: Sequence[Store],
    arm_a: str,
    arm_b: str,
    measure: Measure,
    decoding: Decoding,
    iteration_a: int,
    iteration_b: int,
    task: str | None = None,
    *,
    measure_b: Measure | None = None,
    decoding_b: Decoding | None = None,
) -> Comparison | None:
    """A minus B over the runs in `stores`; a run that has not both leaves no trace in it.

    B is measured as A unless `measure_b` or `decoding_b` say otherwise. None where no run has two
    questions that both systems have answered.
    """
    a = System(StageKey(iteration_a, "eval", arm_a, decoding), measure)
    b = System(StageKey(iteration_b, "eval", arm_b, decoding_b or decoding), measure_b or measure)
    return compare_pairs([(Side(store, a), Side(store, b)) for store in stores], task)


def compare_pairs(pairs: Sequence[tuple[Side, Side]], task: str | None = None) -> Comparison | None:
    """A minus B, where A and B may be of different runs; each pair counts as one run does.

    Pairs without two questions that both sides have answered leave no trace; None if there is no
    other.

        compare_pairs([(Side(first, System(stage, "consensus")), Side(second, ...))])
    """
    # A single agent's value is a mean over agents, so a question may be right in part, which
    # McNemar's test does not know.
    exact = not any("single" in (a.system.measure, b.system.measure) for a, b in pairs)
    runs: list[RunDifference] = []
    pooled: list[tuple[float, float]] = []
    asked: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for a, b in pairs:
        answered_a, answered_b = _read_answers(a, task), _read_answers(b, task)
        shared = sorted(answered_a.keys() & answered_b.keys())
        # With one question there is no variance, hence no interval.
        if len(shared) < 2:
            continue
        both = [(answered_b[q], answered_a[q]) for q in shared]
        runs.append(RunDifference(*_name_pair(a, b), _difference(both, exact)))
        pooled += both
        for question, pair in zip(shared, both, strict=True):
            asked[question].append(pair)
    if not runs:
        return None
    means = [(fmean(x for x, _ in found), fmean(y for _, y in found)) for found in asked.values()]
    # A mean over several runs is no longer right or wrong, so the exact test ends here too.
    once = len(means) == len(pooled)
    by_question = _difference(means, exact and once)
    p_value = by_question.p_value
    if p_value is None:
        p_value = paired_p_value([x for x, _ in means], [y for _, y in means])
    (a, b), *_ = pairs
    whole = _difference(pooled, exact)
    return Comparison(a.system, b.system, task, whole, by_question, tuple(runs), p_value)


def compare_all(
    stores: Sequence[Store],
    arm: str,
    others: Mapping[str, int],
    measure: Measure,
    decoding: Decoding,
    iteration: int,
    task: str | None = None,
) -> list[Comparison]:
    """`arm` minus each of `others` (arm: iteration), in that order, with Holm's correction.

    Arms that share no questions with `arm` are left out.
    """
    found = (
        compare(stores, arm, other, measure, decoding, iteration, at, task)
        for other, at in others.items()
    )
    return apply_holm([comparison for comparison in found if comparison is not None])


def apply_holm(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The same comparisons, with `p_holm` over all of them."""
    adjusted = adjust_p_values([each.p_value for each in comparisons])
    return [replace(each, p_holm=p) for each, p in zip(comparisons, adjusted, strict=True)]


def adjust_p_values(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given; none is smaller than its own."""
    # The running maximum keeps the order: a smaller p-value never gets a larger adjusted one.
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def find_last_iteration(
    stores: Sequence[Store], arm: str, decoding: Decoding, task: str | None = None
) -> int | None:
    """The last iteration that every run which has evaluated `arm` has evaluated; None: no run."""
    which = {"arm": arm, "decoding": decoding, "task": task}
    # An iteration that only some runs have reached would compare different seeds with each other.
    evaluated = [{int(i) for (i,) in store.rows(_EVALUATED, which)} for store in stores]
    shared = set.intersection(*found) if (found := [each for each in evaluated if each]) else set()
    return max(shared, default=None)


def _read_answers(side: Side, task: str | None) -> dict[str, float]:
    stage = side.system.stage
    return metrics.read_by_question(
        side.store, side.system.measure, stage.decoding, stage.iteration, stage.arm, task
    )


def _name_pair(a: Side, b: Side) -> tuple[str, int]:
    names, seeds = zip(*(_read_name(side.store) for side in (a, b)), strict=True)
    return " minus ".join(dict.fromkeys(names)), seeds[0]


def _read_name(store: Store) -> tuple[str, int]:
    run = store.run()
    return (run.name, run.seed) if run else (store.path.parent.name, 0)


def _difference(pairs: Sequence[tuple[float, float]], exact: bool) -> PairedDifference:
    before, after = [b for b, _ in pairs], [a for _, a in pairs]
    if exact:
        return paired_right([b == 1 for b in before], [a == 1 for a in after])
    return paired_shares(before, after)
