"""What the arms have learnt from: pseudo-labels, jobs and their losses, over all seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from evals import metrics
from evals.intervals import Rate, wilson
from evals.report.experiments import Source
from evals.stored_run import ArmSettings

_JOBS = """
    with losses as (
        select job_id, list(loss order by step) as losses from training_points group by job_id
    )
    select j.arm, j.iteration, j.agent, j.role, d.examples, j.status, coalesce(j.error, d.note),
           j.shared_job_id is not null, coalesce(l.losses, [])
    from jobs j
    join datasets d using (dataset_id)
    left join losses l on l.job_id = coalesce(j.shared_job_id, j.job_id)
    order by j.arm, j.iteration, j.agent, j.role desc, j.created_at
"""
_FLIPS = """
    select f.arm, f.iteration, f.split, f.decoding, f.conversations, f.wrong_to_right,
           f.right_to_wrong
    from flips f
    where f.agent is null and f.task in (select task from questions where not is_extra)
    order by f.split desc, f.decoding desc, f.arm, f.iteration
"""


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of one iteration's training questions against gold, which nothing else does.

    The interval of `accuracy` is Wilson's with the mean number of labels with gold of a seed, as
    seeds share their questions; None where gold is unknown or nothing was labelled. The others are
    those of `evals.metrics.Labels`. Shares 0 to 1.
    """

    arm: str
    iteration: int
    questions: int
    accuracy: Rate | None
    coverage: float
    ties: float
    below_quorum: float
    unparsed: float | None
    truncated: float | None
    seeds: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Flips:
    """Of `answers` pairs of first and last answer of one agent, how many turned."""

    arm: str
    iteration: int
    split: str
    decoding: str
    answers: int
    wrong_to_right: int
    right_to_wrong: int


@dataclass(frozen=True, slots=True)
class Tuning:
    """One job; `losses` in nats per trained token, one per optimizer step. `shared`: it has taken
    over another job's model, because it described the same training. `agent` 0: all agents'."""

    run: str
    seed: int
    arm: str
    iteration: int
    agent: int
    role: str
    examples: int
    status: str
    note: str | None
    shared: bool
    losses: tuple[float, ...]


def labels(sources: Sequence[Source], arms: Sequence[ArmSettings]) -> list[Labels]:
    """By arm and iteration. STaR is left out: it learns from gold."""
    found = []
    for arm in arms:
        by_iteration: defaultdict[int, list[tuple[int, metrics.Labels]]] = defaultdict(list)
        if arm.labels == "gold":
            continue
        for source in sources:
            for each in metrics.label_health(source.store, arm.name):
                by_iteration[each.iteration].append((source.seed, each))
        found += [_labels(arm.name, i, seeds) for i, seeds in sorted(by_iteration.items())]
    return found


def flips(sources: Sequence[Source]) -> list[Flips]:
    """On the runs' own task; debates of two rounds and more."""
    together: defaultdict[tuple[str, int, str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for source in sources:
        for arm, iteration, split, decoding, *counts in source.store.rows(_FLIPS):
            total = together[arm, iteration, split, decoding]
            for place, count in enumerate(counts):
                total[place] += int(count)
    return [Flips(*key, *counts) for key, counts in together.items()]


def tunings(sources: Sequence[Source]) -> list[Tuning]:
    """Every job of every run."""
    found = []
    for source in sources:
        for (
            arm,
            iteration,
            agent,
            role,
            examples,
            status,
            note,
            shared,
            losses,
        ) in source.store.rows(_JOBS):
            found.append(
                Tuning(
                    source.name, source.seed, arm, iteration, agent, role, examples, status, note,
                    shared, tuple(losses),
                )
            )  # fmt: skip
    return found


def loss_curve(jobs: Sequence[Tuning], points: int = 24) -> list[tuple[float, float]]:
    """The mean loss of one iteration's jobs over the share 0..1 of each job that is done.

    Jobs have different numbers of steps; each is read off at the same shares, linearly between
    steps. Empty where no job has told its losses.
    """
    curves = [job.losses for job in jobs if job.losses]
    if not curves:
        return []
    most = max(map(len, curves))
    places = [0.0] if most == 1 else [i / (min(points, most) - 1) for i in range(min(points, most))]
    return [(place, fmean(_read_off(curve, place) for curve in curves)) for place in places]


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _read_off(curve: Sequence[float], place: float) -> float:
    at = place * (len(curve) - 1)
    left = min(int(at), len(curve) - 1)
    right = min(left + 1, len(curve) - 1)
    return curve[left] + (curve[right] - curve[left]) * (at - left)


def _labels(arm: str, iteration: int, seeds: Sequence[tuple[int, metrics.Labels]]) -> Labels:
    rates = [(seed, each.accuracy) for seed, each in seeds]
    known = [(seed, rate) for seed, rate in rates if rate is not None]
    accuracy = None
    if known:
        labelled = sum(rate.total for _, rate in known)
        share = sum(rate.value * rate.total for _, rate in known) / labelled
        each = labelled / len(known)
        accuracy = Rate(share, *wilson(share, each), round(each))
    return Labels(
        arm,
        iteration,
        max(each.questions for _, each in seeds),
        accuracy,
        fmean(each.coverage for _, each in seeds),
        fmean(each.ties for _, each in seeds),
        fmean(each.below_quorum for _, each in seeds),
        _mean(each.unparsed for _, each in seeds),
        _mean(each.truncated for _, each in seeds),
        tuple((seed, rate.value) for seed, rate in known),
    )
