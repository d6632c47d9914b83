"""How the agents vote on evaluation questions, and how many answers cannot be read; over all seeds.

It needs no gold: it stands beside every accuracy, and is what a run without gold is known by.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from evals.agreement import Agreement, agreements
from evals.metrics import Decoding, extra_tasks
from evals.report.experiments import Source
from evals.stored_run import ArmSettings


@dataclass(frozen=True, slots=True)
class Voting:
    """One society under one decoding on one task (None: the runs' own), means over the seeds.

    `questions` and `known` (those with gold) are those of the seed with the most. The shares are
    those of `evals.agreement.Agreement`.
    """

    task: str | None
    arm: str
    iteration: int
    decoding: Decoding
    questions: int
    known: int
    first: float | None
    last: float | None
    coverage: float
    ties: float
    unparsed: float
    truncated: float
    to_label: float | None
    from_label: float | None


def read(sources: Sequence[Source], arms: Sequence[ArmSettings]) -> list[Voting]:
    """By task, arm, decoding and iteration."""
    found: defaultdict[tuple[str | None, str, Decoding, int], list[Agreement]] = defaultdict(list)
    tasks = dict.fromkeys(task for source in sources for task in extra_tasks(source.store))
    for task in (None, *tasks):
        for arm in arms:
            for source in sources:
                for each in agreements(source.store, arm.name, task):
                    found[task, arm.name, each.decoding, each.iteration].append(each)
    return [_pooled(task, arm, seeds) for (task, arm, *_), seeds in found.items()]


def _pooled(task: str | None, arm: str, seeds: Sequence[Agreement]) -> Voting:
    return Voting(
        task,
        arm,
        seeds[0].iteration,
        seeds[0].decoding,
        max(each.questions for each in seeds),
        max(each.known for each in seeds),
        _mean(each.first for each in seeds),
        _mean(each.last for each in seeds),
        fmean(each.coverage for each in seeds),
        fmean(each.ties for each in seeds),
        fmean(each.unparsed for each in seeds),
        fmean(each.truncated for each in seeds),
        _mean(each.to_label for each in seeds),
        _mean(each.from_label for each in seeds),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
