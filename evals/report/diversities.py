"""How different the agents are, by iteration and arm: agreement, which every run has, and what the
table `diversity` holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from evals.intervals import Rate
from evals.report.accuracies import Accuracies
from evals.report.seeds import SeedRun
from store.records import Decoding

# NULL stands for the run's own task, as in the accuracies; other tasks keep their label.
_STORED = """
    select nullif(d.task, own.task), d.arm, d.iteration, d.decoding, d.role, d.measure,
           d.responses, d.encoder, d.value, d.low, d.high, d.questions, d.note
    from diversity d
    left join (select distinct task from questions where not is_extra) own on d.task = own.task
    where d.split = 'eval'
    order by d.measure, d.role desc, d.responses = 'agreeing', d.encoder, d.arm, d.iteration
"""

UNITS = {
    "agreement": "share of agents with the plurality answer",
    "embedding": "mean pairwise 1 − cosine",
    "nll": "nats per token under the other agents' models",
    "kl": "nats per token between the agents' models",
    "kl_base": "nats per token against the base",
}


@dataclass(frozen=True, slots=True)
class Scale:
    """What is measured: everything that makes two values comparable. `role` is `generator` (first
    answers) or `critic` (last answers)."""

    measure: str
    role: str
    responses: str
    encoder: str

    @property
    def unit(self) -> str:
        return UNITS.get(self.measure, self.measure)


@dataclass(frozen=True, slots=True)
class ArmDiversity:
    """One value over all seeds: the mean of the seeds' values. `low` and `high` are the mean of the
    seeds' own ends, as the seeds ask the same questions. `value` is None where it cannot be had,
    for the reason in `note`."""

    task: str | None
    arm: str
    iteration: int
    decoding: Decoding
    scale: Scale
    value: float | None
    low: float | None
    high: float | None
    questions: int
    seeds: tuple[tuple[int, float], ...]
    note: str | None


def read_diversities(runs: Sequence[SeedRun], accuracies: Accuracies) -> list[ArmDiversity]:
    """Agreement first, then the stored measures in alphabetical order."""
    return [*_read_agreement(accuracies), *_read_stored(runs)]


def list_scales(found: Sequence[ArmDiversity]) -> list[Scale]:
    """The scales that have a value, in order."""
    return list(dict.fromkeys(each.scale for each in found if each.value is not None))


def _read_agreement(accuracies: Accuracies) -> list[ArmDiversity]:
    found = []
    for key, each in accuracies.by_key.items():
        if key.quantity in ("agreement-first", "agreement-last"):
            role = "generator" if key.quantity == "agreement-first" else "critic"
            scale, rate = Scale("agreement", role, "all", ""), each.rate
            found.append(
                ArmDiversity(
                    key.task,
                    key.stage.arm,
                    key.stage.iteration,
                    key.stage.decoding,
                    scale,
                    rate.value,
                    rate.low,
                    rate.high,
                    rate.total,
                    each.seeds,
                    None,
                )
            )
    # First answers before last answers, as in a debate.
    found.sort(key=lambda d: (d.scale.role != "generator", d.task or "", d.arm, d.iteration))
    return found


def _read_stored(runs: Sequence[SeedRun]) -> list[ArmDiversity]:
    together: defaultdict[tuple[object, ...], list[tuple[int, Sequence[object]]]] = defaultdict(
        list
    )
    for run in runs:
        for row in run.store.rows(_STORED):
            together[row[:8]].append((run.seed, row[8:]))
    found = []
    for key, seeds in together.items():
        task, arm, iteration, decoding, role, measure, responses, encoder = key
        scale = Scale(str(measure), str(role), str(responses), str(encoder))
        values = [(seed, float(row[0])) for seed, row in seeds if row[0] is not None]  # type: ignore[arg-type]
        notes = [str(row[4]) for _, row in seeds if row[4] is not None]
        found.append(
            ArmDiversity(
                None if task is None else str(task),
                str(arm),
                int(iteration),  # type: ignore[call-overload]
                "greedy" if decoding == "greedy" else "sampled",
                scale,
                _mean([row[0] for _, row in seeds]),
                _mean([row[1] for _, row in seeds]),
                _mean([row[2] for _, row in seeds]),
                max(int(row[3]) for _, row in seeds),  # type: ignore[call-overload]
                tuple(values),
                notes[0] if notes else None,
            )
        )
    return found


def _mean(values: Sequence[object]) -> float | None:
    known = [float(value) for value in values if value is not None]  # type: ignore[arg-type]
    # All or nothing: a mean over some seeds would stand beside means over all of them.
    return fmean(known) if known and len(known) == len(values) else None


@dataclass(frozen=True, slots=True)
class Survival:
    """One arm's diversity on one scale, before any tuning and after the last iteration."""

    arm: str
    scale: Scale
    before: Rate
    after: Rate

    @property
    def apart(self) -> bool:
        """Whether the two intervals have nothing in common."""
        return self.after.low > self.before.high or self.after.high < self.before.low


def find_survival(
    found: Sequence[ArmDiversity], arm: str, scale: Scale, decoding: str
) -> Survival | None:
    """None unless the arm has values with intervals at iteration 0 and later."""
    values = sorted(
        (each.iteration, Rate(each.value, each.low, each.high, each.questions))
        for each in found
        if (each.arm, each.scale, each.decoding, each.task) == (arm, scale, decoding, None)
        and each.value is not None
        and each.low is not None
        and each.high is not None
    )
    # Without the untuned society there is nothing to compare the last iteration with.
    if len(values) < 2 or values[0][0] != 0:
        return None
    return Survival(arm, scale, values[0][1], values[-1][1])
