"""The main arm against every other, on the same questions; and what was equal between the arms.

A comparison is worth what its arms share. The counts in `Parity` are means over the seeds,
iterations and models of an arm, as the arm needed them: a response taken over from another arm
counts, although it was paid for only once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from evals import stored_run
from evals.comparison import Comparison, apply_holm, compare
from evals.intervals import PairedDifference
from evals.metrics import Measure
from evals.report.accuracies import Accuracies
from evals.report.seeds import SeedGroup
from evals.report.training import Tuning
from evals.stored_run import ArmSettings
from store.ledger import Store
from store.records import Decoding, StageKey

Outcome = Literal["better", "worse", "unclear"]


@dataclass(frozen=True, slots=True)
class ArmVerdict:
    """The main arm minus one other, or minus itself before any tuning (`untuned`)."""

    other: str
    untuned: bool
    comparison: Comparison

    @property
    def change(self) -> PairedDifference:
        """The difference with every question counted once."""
        return self.comparison.by_question

    @property
    def outcome(self) -> Outcome:
        """Better or worse only if the corrected test says so and the interval excludes zero."""
        change = self.change
        # Test and interval rest on different approximations; only where both agree a difference is
        # claimed.
        clear = self.comparison.significant and not change.low <= 0 <= change.high
        if not clear:
            return "unclear"
        return "better" if change.difference > 0 else "worse"

    @property
    def p_value(self) -> float:
        """The comparison's p-value, with Holm's correction if several arms are compared."""
        holm = self.comparison.p_holm
        return holm if holm is not None else self.comparison.p_value


@dataclass(frozen=True, slots=True)
class ArmVerdicts:
    """All comparisons by one measure, on one task (None: the runs' own)."""

    measure: Measure
    decoding: Decoding
    task: str | None
    verdicts: tuple[ArmVerdict, ...]


def compare_arms(group: SeedGroup, accuracies: Accuracies) -> list[ArmVerdicts]:
    """By the vote of the last round first, then for a single agent; zero-shot tasks by vote."""
    decodings = accuracies.list_decodings()
    if not decodings:
        return []
    asked: list[tuple[Measure, Decoding, str | None]] = [("consensus", decodings[0], None)]
    # Each measure is a family of its own for Holm's correction; the report's answer rests on the
    # vote.
    asked += [("single", decoding, None) for decoding in decodings]
    for task in accuracies.list_tasks():
        asked += [("consensus", decoding, task) for decoding in accuracies.list_decodings(task)[:1]]
    found = (_compare_on(group, accuracies, *which) for which in asked)
    return [verdicts for verdicts in found if verdicts.verdicts]


def _compare_on(
    group: SeedGroup,
    accuracies: Accuracies,
    measure: Measure,
    decoding: Decoding,
    task: str | None,
) -> ArmVerdicts:
    society = group.main.name
    if (found := accuracies.find_last(society, decoding, measure, task)) is None:
        return ArmVerdicts(measure, decoding, task, ())
    last = found.key.stage.iteration
    against: list[tuple[str, int]] = []
    twin = stored_run.find_untuned_twin(group.arms)
    before = accuracies.find(StageKey(0, "eval", society, decoding), measure, task)
    # An arm `debate` of the same shape is the untuned society; comparing with both would count it
    # twice in Holm's correction.
    if last > 0 and before is not None and twin is None:
        against.append((society, 0))
    for arm in group.arms:
        at = accuracies.find_last(arm.name, decoding, measure, task)
        if arm.name != society and at is not None:
            against.append((arm.name, at.key.stage.iteration))
    changes = (
        compare(group.stores, society, other, measure, decoding, last, at, task)
        for other, at in against
    )
    compared = apply_holm([change for change in changes if change is not None])
    return ArmVerdicts(
        measure,
        decoding,
        task,
        tuple(ArmVerdict(each.b.stage.arm, each.b.stage.arm == society, each) for each in compared),
    )


def find_primary(verdicts: Sequence[ArmVerdicts]) -> ArmVerdicts | None:
    """The comparisons that the report's answer rests on: by votes, on the runs' own task."""
    own = [each for each in verdicts if each.task is None and each.measure == "consensus"]
    return own[0] if own else None


NEAR = 0.05
"""Counts that differ by no more than this share are taken as equal."""

_TRAINED_ON = """
    select arm, avg(questions) from (
        select arm, iteration, count(distinct question_id) as questions
        from votes where split = 'train' group by all)
    group by arm
"""
# Means per debate rather than totals, since arms may have evaluated different numbers of
# iterations.
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
class SharedValue:
    """One property of one arm: a word, a count, or unknown."""

    text: str | None = None
    count: float | None = None

    def equals(self, other: SharedValue) -> bool | None:
        """None if one of the two is unknown."""
        if self.count is not None and other.count is not None:
            # Counts of turns vary a little by chance; settings are compared exactly.
            return abs(self.count - other.count) <= NEAR * max(self.count, other.count)
        if self.text is not None and other.text is not None:
            return self.text == other.text
        return None


@dataclass(frozen=True, slots=True)
class SharedProperty:
    """One property of all arms, in the arms' order; `equal` compares each with the main arm's."""

    name: str
    values: tuple[SharedValue, ...]
    equal: tuple[bool | None, ...]


@dataclass(frozen=True, slots=True)
class Parity:
    """What is equal between the arms: all properties, compared with those of the arm `main`."""

    arms: tuple[str, ...]
    main: str
    properties: tuple[SharedProperty, ...]


def read_parity(
    group: SeedGroup, arms: Sequence[ArmSettings], tunings: Sequence[Tuning], decoding: str
) -> Parity:
    """Compare `arms` with the main one; calls and tokens are those of one decoding."""
    main = group.main.name
    trained_on = _means(group.stores, _TRAINED_ON, [])
    evaluated = _means(group.stores, _EVALUATED, [decoding])
    found = [("labels from", [_name_labels(arm) for arm in arms])]
    found += _list_settings(arms)
    found += _list_training(arms, tunings)
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
            SharedProperty(name, tuple(values), tuple(v.equals(values[reference]) for v in values))
            for name, values in found
            if any(value != SharedValue() for value in values)
        ),
    )


def _name_labels(arm: ArmSettings) -> SharedValue:
    words = {
        "final": "vote of the last round",
        "round1": "vote of the first round",
        "average": "vote of the averaged society",
        "gold": "gold answers",
    }
    if arm.labels is None:
        return SharedValue(None)
    lag = arm.labels.removeprefix("lagged:")
    words[f"lagged:{lag}"] = f"vote of the society of {lag} iteration{'s'[: lag != '1']} before"
    text = words.get(arm.labels, arm.labels)
    more = f", {arm.label_samples} answers of each agent" if arm.label_samples > 1 else ""
    return SharedValue(text + more)


def _list_settings(arms: Sequence[ArmSettings]) -> list[tuple[str, list[SharedValue]]]:
    def words(value: object) -> SharedValue:
        return SharedValue(None if value is None else str(value))

    return [
        ("agents", [words(arm.agents) for arm in arms]),
        ("agents in training debates", [words(arm.train_agents) for arm in arms]),
        ("rounds", [words(_describe_rounds(arm)) for arm in arms]),
        ("others' responses", [words(arm.others if arm.rounds != 1 else None) for arm in arms]),
        ("iterations", [words(arm.iterations) for arm in arms]),
        ("tuned", [words(" and ".join(arm.roles) or None) for arm in arms]),
        ("models", [words(arm.models if arm.trained else None) for arm in arms]),
        ("training data", [words(arm.data if arm.trained else None) for arm in arms]),
        ("w", [words(arm.w if arm.trained else None) for arm in arms]),
    ]


def _describe_rounds(arm: ArmSettings) -> str | None:
    if not arm.rounds or not arm.early_end:
        return str(arm.rounds) if arm.rounds else None
    where = {"train": " in training", "eval": " in evaluation"}.get(str(arm.early_end), "")
    return f"{arm.rounds}; fewer{where} once all agents agree"


def _list_training(
    arms: Sequence[ArmSettings], tunings: Sequence[Tuning]
) -> list[tuple[str, list[SharedValue]]]:
    found = []
    for role in ("generator", "critic"):
        of_role = [
            [job for job in tunings if (job.arm, job.role) == (arm.name, role)] for arm in arms
        ]
        done = [[job for job in jobs if job.status == "succeeded"] for jobs in of_role]
        found += [
            (f"{role}s tuned per iteration", [_models(jobs) for jobs in done]),
            (f"examples per {role}", [_average([job.examples for job in jobs]) for jobs in done]),
            (
                f"optimizer steps per {role}",
                [_average([len(job.losses) for job in jobs if job.losses]) for jobs in done],
            ),
        ]
    return found


def _models(jobs: Sequence[Tuning]) -> SharedValue:
    stages = {(job.run, job.iteration) for job in jobs}
    return SharedValue(count=len(jobs) / len(stages)) if stages else SharedValue()


def _average(values: Sequence[int]) -> SharedValue:
    return SharedValue(count=fmean(values)) if values else SharedValue()


def _means(stores: Sequence[Store], query: str, params: Sequence[object]) -> dict[str, list[float]]:
    found: dict[str, list[list[float]]] = {}
    for store in stores:
        for arm, *values in store.rows(query, params):
            found.setdefault(str(arm), []).append([float(value or 0) for value in values])
    return {
        arm: [fmean(column) for column in zip(*rows, strict=True)] for arm, rows in found.items()
    }


def _count(found: dict[str, list[float]], arm: ArmSettings, place: int) -> SharedValue:
    return SharedValue(count=found[arm.name][place]) if arm.name in found else SharedValue()
