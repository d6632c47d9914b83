"""Accuracy and votes of every arm, iteration, task, decoding and measure, over all seeds.

A question counts once: with several seeds its value is the mean over the seeds that asked it, and
the interval is over questions (`evals.intervals.rate`). The interval does not cover how much one
training differs from the next; the single seeds' values stand beside it. How the agents vote needs
no gold: it stands beside every accuracy, and is all that is known of a run without gold.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from evals.agreement import Agreement, pool_agreements, read_agreements
from evals.intervals import Rate, rate
from evals.metrics import list_extra_tasks
from evals.report.seeds import SeedRun
from evals.stored_run import ArmSettings
from store.ledger import Store
from store.records import Decoding, StageKey

Quantity = Literal["single", "majority", "consensus", "agreement-first", "agreement-last"]
"""An accuracy, or the share of an answer's supporters among the agents with a readable answer in
the first or the last round (the paper's consensus diversity)."""

# One row per question: agents that answer the same question are not independent, so their mean is
# one value, and the number of answers goes into the interval (`evals.intervals.rate`).
_SINGLES = """
    select if(q.is_extra, q.task, null), t.arm, t.iteration, t.decoding, t.question_id,
           avg(v.correct::int), count(*)
    from turns t join verdicts v using (turn_id) join questions q using (question_id)
    where t.split = 'eval' and t.kind = 'answer' and t.round = 1 and v.correct is not null
    group by all
"""
# `arg_max_null` keeps an agreement that is NULL in the last round (no readable answer); `arg_max`
# would fall back to an earlier round.
_VOTES = """
    select if(q.is_extra, q.task, null), v.arm, v.iteration, v.decoding, v.question_id,
           any_value(v.voters) filter (v.round = 1), arg_max(v.voters, v.round),
           any_value(v.correct::int) filter (v.round = 1),
           arg_max(v.correct::int, v.round),
           any_value(v.votes / nullif(v.voters, 0)) filter (v.round = 1),
           arg_max_null(v.votes / nullif(v.voters, 0), v.round)
    from votes v join questions q using (question_id)
    where v.split = 'eval'
    group by all
"""


# The number of answers goes with each share: the interval's effective size is bounded by it.
Marks = dict[str, tuple[float, int]]
"""By question: a share 0 to 1, and of how many answers."""


@dataclass(frozen=True, slots=True)
class AccuracyKey:
    """Whose answers (an evaluated stage), on which task (None is the runs' own), and which value of
    them."""

    stage: StageKey
    task: str | None
    quantity: Quantity


@dataclass(frozen=True, slots=True)
class Accuracy:
    """One value with its interval over questions, and every seed's own; shares 0 to 1."""

    key: AccuracyKey
    rate: Rate
    seeds: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Accuracies:
    """All of them, by key."""

    by_key: Mapping[AccuracyKey, Accuracy]

    def find(self, stage: StageKey, quantity: Quantity, task: str | None = None) -> Accuracy | None:
        return self.by_key.get(AccuracyKey(stage, task, quantity))

    def list_iterations(
        self, arm: str, decoding: str, quantity: Quantity, task: str | None = None
    ) -> list[Accuracy]:
        """One arm's values by iteration."""
        found = [
            each
            for key, each in self.by_key.items()
            if (key.task, key.stage.arm, key.stage.decoding, key.quantity)
            == (task, arm, decoding, quantity)
        ]
        return sorted(found, key=lambda each: each.key.stage.iteration)

    def find_last(
        self, arm: str, decoding: str, quantity: Quantity, task: str | None = None
    ) -> Accuracy | None:
        """After the last iteration that every seed with this arm has evaluated."""
        found = self.list_iterations(arm, decoding, quantity, task)
        runs = max((len(each.seeds) for each in found), default=0)
        # A seed that lags behind must not mix its earlier iteration with the others' later one.
        complete = [each for each in found if len(each.seeds) == runs]
        return complete[-1] if complete else None

    def list_decodings(self, task: str | None = None) -> list[Decoding]:
        """The decodings that something was evaluated with; sampled first."""
        found = {key.stage.decoding for key in self.by_key if key.task == task}
        return sorted(found, reverse=True)

    def list_tasks(self) -> list[str]:
        """The labels of the extra tasks: zero-shot tasks and curriculum stages, sorted."""
        return sorted({key.task for key in self.by_key if key.task is not None})


def read_accuracies(runs: Sequence[SeedRun]) -> Accuracies:
    """The values over all seeds of one experiment."""
    found: defaultdict[AccuracyKey, list[tuple[int, Marks]]] = defaultdict(list)
    for run in runs:
        for key, marks in _read_marks(run.store).items():
            found[key].append((run.seed, marks))
    return Accuracies({key: _pool_accuracies(key, seeds) for key, seeds in found.items()})


def _pool_accuracies(key: AccuracyKey, seeds: Sequence[tuple[int, Marks]]) -> Accuracy:
    asked: defaultdict[str, list[float]] = defaultdict(list)
    answers = 0
    for _, marks in seeds:
        for question, (mark, of) in marks.items():
            asked[question].append(mark)
            answers += of
    # A question that several seeds have asked counts once, or the interval would be too narrow.
    means = [fmean(marks) for _, marks in sorted(asked.items())]
    own = tuple((seed, fmean(mark for mark, _ in marks.values())) for seed, marks in seeds)
    return Accuracy(key, rate(means, answers), own)


def _key(
    task: str | None, arm: str, iteration: int, decoding: Decoding, quantity: Quantity
) -> AccuracyKey:
    return AccuracyKey(StageKey(iteration, "eval", arm, decoding), task, quantity)


def _read_marks(store: Store) -> dict[AccuracyKey, Marks]:
    found: defaultdict[AccuracyKey, Marks] = defaultdict(dict)
    for task, arm, iteration, decoding, question, right, answers in store.rows(_SINGLES):
        found[_key(task, arm, iteration, decoding, "single")][question] = right, answers
    names: tuple[Quantity, ...] = ("majority", "consensus", "agreement-first", "agreement-last")
    for task, arm, iteration, decoding, question, first, last, *values in store.rows(_VOTES):
        for quantity, value, of in zip(names, values, (1, 1, first, last), strict=True):
            if value is not None:
                found[_key(task, arm, iteration, decoding, quantity)][question] = value, of
    return dict(found)


def read_votings(runs: Sequence[SeedRun], arms: Sequence[ArmSettings]) -> list[Agreement]:
    """By task (None first: the runs' own), arm, iteration and decoding; means over the seeds."""
    found: defaultdict[tuple[str | None, StageKey], list[Agreement]] = defaultdict(list)
    tasks = dict.fromkeys(task for run in runs for task in list_extra_tasks(run.store))
    for task in (None, *tasks):
        for arm in arms:
            for run in runs:
                for each in read_agreements(run.store, arm.name, task):
                    found[task, each.stage].append(each)
    return [pool_agreements(seeds) for seeds in found.values()]
