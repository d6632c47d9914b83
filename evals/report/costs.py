"""What every stage of every arm has cost: calls, tokens, time, money.

A turn or a job that has taken over another's outcome was not paid and does not count.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from evals.metrics import parse_curriculum_stage
from store.ledger import Store

# A shared turn has taken over another arm's response, which is paid there.
_DEBATES = """
    select t.arm, t.iteration, t.split, if(q.is_extra, q.task, null), t.decoding,
           count_if(t.kind = 'answer'), count_if(t.kind = 'summary'),
           sum(t.prompt_tokens)::bigint, sum(t.completion_tokens)::bigint,
           epoch(max(t.created_at) - min(t.created_at))
    from turns t left join questions q using (question_id)
    where t.shared_turn_id is null
    group by all
"""
_JOBS = """
    select arm, iteration, count(*), sum(trained_tokens)::bigint,
           epoch(max(finished_at) - min(created_at))
    from jobs
    where status <> 'skipped' and finished_at is not null and shared_job_id is null
    group by all
"""
_MONEY = """
    select arm, iteration, stage, split,
           if(task in (select task from questions where is_extra), task, null), decoding,
           sum(calls)::bigint, sum(prompt_tokens)::bigint, sum(completion_tokens)::bigint,
           sum(usd), count(*) - count(usd)
    from spend where arm is not null group by all
"""
_ASIDE = {"diversity": "likelihoods", "ask": "questions asked in passing"}
"""Stages that leave no turns."""


@dataclass(frozen=True, slots=True)
class StageCost:
    """One stage of one arm in one iteration, summed over the seeds.

    `answers` and `summaries` are None for fine-tuning, where `jobs` counts. `new_tokens` are
    completion tokens, or the trained tokens. `seconds` is from the first to the last response, or
    from submission to adoption. `usd` is None where a price or the tokens are unknown.
    """

    arm: str
    iteration: int
    stage: str
    answers: int | None
    summaries: int | None
    jobs: int | None
    prompt_tokens: int | None
    new_tokens: int | None
    seconds: float
    usd: float | None


def read_costs(stores: Sequence[Store]) -> list[StageCost]:
    """By arm, iteration and stage, in the order in which a run goes through them."""
    found: defaultdict[tuple[str, int, int, str], list[StageCost]] = defaultdict(list)
    for store in stores:
        for order, cost in _of_run(store):
            found[cost.arm, cost.iteration, order, cost.stage].append(cost)
    return [sum_costs(found[key]) for key in sorted(found)]


def sum_by_stage(costs: Sequence[StageCost]) -> list[StageCost]:
    """The same, summed over the iterations; `iteration` is the last one."""
    found: defaultdict[tuple[str, str], list[StageCost]] = defaultdict(list)
    for cost in costs:
        found[cost.arm, cost.stage].append(cost)
    return [sum_costs(each) for each in found.values()]


def sum_costs(costs: Sequence[StageCost]) -> StageCost:
    """Costs of the same arm and stage as one."""
    return replace(
        costs[-1],
        answers=_sum([cost.answers for cost in costs]),
        summaries=_sum([cost.summaries for cost in costs]),
        jobs=_sum([cost.jobs for cost in costs]),
        prompt_tokens=_sum([cost.prompt_tokens for cost in costs]),
        new_tokens=_sum([cost.new_tokens for cost in costs]),
        seconds=sum(cost.seconds for cost in costs),
        # One unknown price makes the sum unknown: a sum of the rest would look like the whole.
        usd=None
        if any(cost.usd is None for cost in costs)
        else sum(cost.usd or 0 for cost in costs),
    )


def _of_run(store: Store) -> list[tuple[int, StageCost]]:
    spent = _read_spent_by_stage(store)
    # Turns do not store prices; the view `spend` has them, with the failed attempts.
    money = {key: cost.usd for key, cost in spent.items()}
    found = []
    for arm, iteration, split, task, decoding, *counts, seconds in store.rows(_DEBATES):
        answers, summaries, prompt, new = counts
        stage = _debate(split, task, decoding)
        usd = money.get((arm, iteration, stage))
        cost = StageCost(arm, iteration, stage, answers, summaries, None, prompt, new, seconds, usd)
        # The order in which a run spends: training debates, fine-tuning, evaluation, then the rest.
        found.append((2 if split == "eval" else 0, cost))
    for arm, iteration, jobs, tokens, seconds in store.rows(_JOBS):
        usd = money.get((arm, iteration, "fine-tuning"))
        cost = StageCost(
            arm, iteration, "fine-tuning", None, None, jobs, None, tokens, seconds or 0.0, usd
        )
        found.append((1, cost))
    found += [(3, cost) for cost in spent.values() if cost.stage in _ASIDE.values()]
    return found


def _read_spent_by_stage(store: Store) -> dict[tuple[str, int, str], StageCost]:
    """What the view `spend` knows, by arm, iteration and stage: failed attempts count."""
    found: dict[tuple[str, int, str], StageCost] = {}
    for arm, iteration, kind, split, task, decoding, *numbers, usd, unknown in store.rows(_MONEY):
        if kind == "finetune":
            stage = "fine-tuning"
        else:
            stage = _ASIDE.get(kind) or _debate(split, task, decoding)
        calls, prompt, new = numbers
        cost = StageCost(arm, iteration, stage, calls, None, None, prompt, new, 0.0, None)
        cost = replace(cost, usd=None if unknown else float(usd))
        key = arm, iteration, stage
        found[key] = sum_costs([found[key], cost]) if key in found else cost
    return found


def _debate(split: str, task: str | None, decoding: str) -> str:
    if split == "label":
        return "votes on labels"
    return "training debate" if split == "train" else _evaluation(task, decoding)


def _evaluation(task: str | None, decoding: str) -> str:
    if task is None:
        return f"evaluation, {decoding}"
    kind = "zero-shot" if parse_curriculum_stage(task) is None else "curriculum"
    return f"{kind} {task}, {decoding}"


def _sum(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
