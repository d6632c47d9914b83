"""What was equal between the arms, and what was not: a comparison is worth what its arms share.

Counts are means over the seeds, iterations and models of an arm, as the arm needed them: a response
that was taken over from another arm counts here, though nobody paid for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from evals.report.experiments import Experiment
from evals.report.training import Tuning
from evals.stored_run import ArmSettings
from store.ledger import Store

NEAR = 0.05
"""Counts that differ by no more than this share are taken as equal."""

_TRAINED_ON = """
    select arm, avg(questions) from (
        select arm, iteration, count(distinct question_id) as questions
        from votes where split = 'train' group by all)
    group by arm
"""
_EVALUATED = """
    select t.arm, count(*) / count(distinct (t.iteration, t.question_id)),
           count_if(t.kind = 'answer') / count(distinct (t.iteration, t.question_id)),
           sum(t.prompt_tokens) / count(distinct (t.iteration, t.question_id)),
           sum(t.completion_tokens) / count(distinct (t.iteration, t.question_id))
    from turns t join questions q using (question_id)
    where t.split = 'eval' and t.decoding = ? and not q.is_extra
    group by t.arm
"""


@dataclass(frozen=True, slots=True)
class Fact:
    """One property of one arm: a word, a count, or nothing known."""

    text: str | None = None
    count: float | None = None

    def equals(self, other: Fact) -> bool | None:
        """None where one of the two is unknown."""
        if self.count is not None and other.count is not None:
            return abs(self.count - other.count) <= NEAR * max(self.count, other.count)
        if self.text is not None and other.text is not None:
            return self.text == other.text
        return None


@dataclass(frozen=True, slots=True)
class Property:
    """One property of all arms, in the arms' order; `trained` ones say nothing of untuned arms."""

    name: str
    values: tuple[Fact, ...]
    equal: tuple[bool | None, ...]


@dataclass(frozen=True, slots=True)
class Parity:
    """All properties; `equal` compares with the arm `main`."""

    arms: tuple[str, ...]
    main: str
    properties: tuple[Property, ...]


def read(
    experiment: Experiment, arms: Sequence[ArmSettings], tunings: Sequence[Tuning], decoding: str
) -> Parity:
    """The arms given, against the experiment's main one; calls and tokens in one decoding."""
    main = experiment.main.name
    trained_on = _means(experiment.stores, _TRAINED_ON, [])
    evaluated = _means(experiment.stores, _EVALUATED, [decoding])
    found = [("labels from", [_labels(arm) for arm in arms])]
    found += _told(arms)
    found += _learnt(arms, tunings)
    found.append(("training questions per iteration", [_count(trained_on, a, 0) for a in arms]))
    names = (
        "calls per question",
        "answers per question",
        "prompt tokens per question",
        "new tokens per question",
    )
    for place, name in enumerate(names):
        found.append((name, [_count(evaluated, arm, place) for arm in arms]))
    reference = [arm.name for arm in arms].index(main)
    return Parity(
        tuple(arm.name for arm in arms),
        main,
        tuple(
            Property(name, tuple(values), tuple(v.equals(values[reference]) for v in values))
            for name, values in found
            if any(value != Fact() for value in values)
        ),
    )


def _labels(arm: ArmSettings) -> Fact:
    words = {
        "final": "vote of the last round",
        "round1": "vote of the first round",
        "gold": "gold answers",
    }
    return Fact(words.get(arm.labels, arm.labels) if arm.labels else None)


def _told(arms: Sequence[ArmSettings]) -> list[tuple[str, list[Fact]]]:
    def words(value: object) -> Fact:
        return Fact(None if value is None else str(value))

    return [
        ("agents", [words(arm.agents) for arm in arms]),
        ("agents in training debates", [words(arm.train_agents) for arm in arms]),
        ("rounds", [words(arm.rounds) for arm in arms]),
        ("others' responses", [words(arm.others if arm.rounds != 1 else None) for arm in arms]),
        ("iterations", [words(arm.iterations) for arm in arms]),
        ("tuned", [words(" and ".join(arm.roles) or None) for arm in arms]),
        ("models", [words(arm.models if arm.trained else None) for arm in arms]),
        ("training data", [words(arm.data if arm.trained else None) for arm in arms]),
        ("w", [words(arm.w if arm.trained else None) for arm in arms]),
    ]


def _learnt(arms: Sequence[ArmSettings], tunings: Sequence[Tuning]) -> list[tuple[str, list[Fact]]]:
    found = []
    for role in ("generator", "critic"):
        of_role = [
            [job for job in tunings if (job.arm, job.role) == (arm.name, role)] for arm in arms
        ]
        done = [[job for job in jobs if job.status == "succeeded"] for jobs in of_role]
        found += [
            (f"{role}s tuned per iteration", [_models(jobs) for jobs in done]),
            (f"examples per {role}", [_mean([job.examples for job in jobs]) for jobs in done]),
            (
                f"optimizer steps per {role}",
                [_mean([len(job.losses) for job in jobs if job.losses]) for jobs in done],
            ),
        ]
    return found


def _models(jobs: Sequence[Tuning]) -> Fact:
    stages = {(job.run, job.iteration) for job in jobs}
    return Fact(count=len(jobs) / len(stages)) if stages else Fact()


def _mean(values: Sequence[int]) -> Fact:
    return Fact(count=fmean(values)) if values else Fact()


def _means(stores: Sequence[Store], query: str, params: Sequence[object]) -> dict[str, list[float]]:
    found: dict[str, list[list[float]]] = {}
    for store in stores:
        for arm, *values in store.rows(query, params):
            found.setdefault(str(arm), []).append([float(value or 0) for value in values])
    return {
        arm: [fmean(column) for column in zip(*rows, strict=True)] for arm, rows in found.items()
    }


def _count(found: dict[str, list[float]], arm: ArmSettings, place: int) -> Fact:
    return Fact(count=found[arm.name][place]) if arm.name in found else Fact()
