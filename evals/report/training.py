"""What the arms have learnt from: pseudo-labels, jobs and their losses, over all seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from evals import metrics, reasoning_styles, tasks
from evals.intervals import Rate, wilson
from evals.reasoning_styles import StyleChange, StyleUse
from evals.report.accuracies import Accuracies
from evals.report.seeds import SeedGroup, SeedRun
from evals.stored_run import ArmSettings
from evals.tasks.base import Task
from store.records import Decoding

# A shared job has no losses of its own: those of the job that it took the model from are its curve.
_JOBS = """
    with losses as (
        select job_id, list(loss order by step) as losses from training_points group by job_id
    )
    select j.arm, j.iteration, j.agent, j.role, d.examples, j.status, coalesce(j.error, d.note),
           j.shared_job_id is not null, coalesce(l.losses, []), o.base_kl
    from jobs j
    join datasets d using (dataset_id)
    left join jobs o on o.job_id = coalesce(j.shared_job_id, j.job_id)
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
class ArmLabels:
    """The labels of one iteration's training questions against gold, which nothing else does.

    The interval of `accuracy` is Wilson's with the mean number of labels with gold of a seed, as
    seeds share their questions; None where gold is unknown or nothing was labelled. The others are
    those of `evals.metrics.LabelHealth`. Shares 0 to 1.
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

    @property
    def questions(self) -> str:
        """Which questions were debated, and how, in words."""
        return f"{'training' if self.split == 'train' else 'held-out'}, {self.decoding}"


@dataclass(frozen=True, slots=True)
class Tuning:
    """One job; `losses` in nats per trained token, one per optimizer step. `shared`: it has taken
    over another job's model, because it described the same training. `agent` 0: all agents'.
    `base_kl` is how far its model is from the base, in nats per trained token."""

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
    base_kl: float | None


def read_labels(runs: Sequence[SeedRun], arms: Sequence[ArmSettings]) -> list[ArmLabels]:
    """By arm and iteration. STaR is left out: it learns from gold."""
    found = []
    for arm in arms:
        by_iteration: defaultdict[int, list[tuple[int, metrics.LabelHealth]]] = defaultdict(list)
        # Labels that are gold are right by definition; a row of 100 % would pass for an
        # achievement.
        if arm.labels == "gold":
            continue
        for run in runs:
            for each in metrics.read_label_health(run.store, arm.name):
                by_iteration[each.iteration].append((run.seed, each))
        found += [_pool_labels(arm.name, i, seeds) for i, seeds in sorted(by_iteration.items())]
    return found


def read_flips(runs: Sequence[SeedRun]) -> list[Flips]:
    """On the runs' own task; debates of two rounds and more."""
    together: defaultdict[tuple[str, int, str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for run in runs:
        for arm, iteration, split, decoding, *counts in run.store.rows(_FLIPS):
            total = together[arm, iteration, split, decoding]
            for place, count in enumerate(counts):
                total[place] += int(count)
    return [Flips(*key, *counts) for key, counts in together.items()]


def read_tunings(runs: Sequence[SeedRun]) -> list[Tuning]:
    """Every job of every run."""
    found = []
    for run in runs:
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
            base_kl,
        ) in run.store.rows(_JOBS):
            found.append(
                Tuning(
                    run.name, run.seed, arm, iteration, agent, role, examples, status, note,
                    shared, tuple(losses), base_kl,
                )
            )  # fmt: skip
    return found


def average_loss_curves(jobs: Sequence[Tuning], points: int = 24) -> list[tuple[float, float]]:
    """The mean loss of one iteration's jobs over the share 0..1 of each job that is done.

    Jobs have different numbers of steps; each is read off at the same shares, linearly between
    steps. Empty where no job has told its losses.
    """
    curves = [job.losses for job in jobs if job.losses]
    if not curves:
        return []
    # As many points as the longest job has steps, if that is less than `points`.
    most = max(map(len, curves))
    places = [0.0] if most == 1 else [i / (min(points, most) - 1) for i in range(min(points, most))]
    return [(place, fmean(_interpolate(curve, place) for curve in curves)) for place in places]


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _interpolate(curve: Sequence[float], place: float) -> float:
    # Jobs differ in their number of steps, so that curves are averaged by share done and not by
    # step.
    at = place * (len(curve) - 1)
    left = min(int(at), len(curve) - 1)
    right = min(left + 1, len(curve) - 1)
    return curve[left] + (curve[right] - curve[left]) * (at - left)


def _pool_labels(
    arm: str, iteration: int, seeds: Sequence[tuple[int, metrics.LabelHealth]]
) -> ArmLabels:
    rates = [(seed, each.accuracy) for seed, each in seeds]
    known = [(seed, rate) for seed, rate in rates if rate is not None]
    # Seeds ask the same questions, so their labels are not independent: the interval is that of one
    # seed's mean number of labels, not of the sum.
    accuracy = None
    if known:
        labelled = sum(rate.total for _, rate in known)
        share = sum(rate.value * rate.total for _, rate in known) / labelled
        each = labelled / len(known)
        accuracy = Rate(share, *wilson(share, each), round(each))
    return ArmLabels(
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


@dataclass(frozen=True, slots=True)
class ArmStyles:
    """The styles of one arm's first answers in its first and its last evaluated iteration."""

    arm: str
    decoding: Decoding
    first: int
    last: int
    change: StyleChange

    @property
    def pairs(self) -> list[tuple[StyleUse, StyleUse]]:
        return list(zip(self.change.before, self.change.after, strict=True))


def read_style_changes(
    group: SeedGroup, arms: Sequence[ArmSettings], accuracies: Accuracies
) -> list[ArmStyles]:
    """Of the arms that have changed; empty where the task knows no styles, or is not here."""
    try:
        task = tasks.load_task(group.first.task, dict(group.first.task_options))
    except ValueError:
        # A module or a file of the user's own; the run stands without it.
        return []
    if not _has_styles(group, task, accuracies):
        return []
    found = []
    for arm in arms:
        for decoding in accuracies.list_decodings():
            evaluated = [
                each.key.stage.iteration
                for each in accuracies.list_iterations(arm.name, decoding, "single")
            ]
            if len(evaluated) > 1:
                first, last = evaluated[0], evaluated[-1]
                before = _sum_uses(group.runs, task, decoding, first, arm.name)
                after = _sum_uses(group.runs, task, decoding, last, arm.name)
                if (change := reasoning_styles.compare_styles(before, after)) is not None:
                    found.append(ArmStyles(arm.name, decoding, first, last, change))
    return found


def _has_styles(group: SeedGroup, task: Task, accuracies: Accuracies) -> bool:
    """Whether the task tells a style in any of the main arm's first answers."""
    # One stage of one run is enough to tell; reading every response of every arm is slow.
    main, run = group.main.name, group.first
    return any(
        reasoning_styles.measure_styles(
            run.store, task, each.key.stage.decoding, each.key.stage.iteration, main
        )
        for decoding in accuracies.list_decodings()[:1]
        for each in accuracies.list_iterations(main, decoding, "single")[:1]
    )


def _sum_uses(
    runs: Sequence[SeedRun], task: Task, decoding: Decoding, iteration: int, arm: str
) -> Mapping[str, StyleUse]:
    counts: dict[str, tuple[int, int]] = {}
    for run in runs:
        for style, use in reasoning_styles.measure_styles(
            run.store, task, decoding, iteration, arm
        ).items():
            answers, right = counts.get(style, (0, 0))
            counts[style] = (answers + use.answers, right + use.right)
    # Counts are added and not shares, so that a seed with few answers weighs little.
    total = sum(answers for answers, _ in counts.values())
    return {
        style: StyleUse(style, answers, right, answers / total)
        for style, (answers, right) in sorted(counts.items())
    }
