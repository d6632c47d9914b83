"""Fine-tuning a society's models: all jobs of an iteration, resumable at every moment."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from finetune.errors import TuningFailed
from finetune.plans import (
    KeptModel,
    OnFailure,
    Owner,
    Polling,
    TunedModels,
    TuningPlan,
    TuningProgress,
)
from finetune.tuner import OnProgress, Tuner
from providers.base import Provider
from providers.errors import Unsupported
from providers.gathering import gather_or_cancel
from providers.types import ModelRef
from store.ledger import Store

__all__ = [
    "KeptModel",
    "OnFailure",
    "Polling",
    "TunedModels",
    "TuningFailed",
    "TuningPlan",
    "TuningProgress",
    "tune_models",
]

DEFAULT_POLLING = Polling()

_WEIGHTED = """
SELECT dataset_id FROM dataset_examples
WHERE weight <> 1 AND dataset_id IN (SELECT unnest(?::VARCHAR[]))
ORDER BY dataset_id
LIMIT 1
"""


async def tune_models(
    *,
    providers: Mapping[str, Provider],
    store: Store,
    plans: Sequence[TuningPlan],
    on_progress: OnProgress | None = None,
    polling: Polling = DEFAULT_POLLING,
    on_failure: OnFailure = "stop",
) -> dict[str, TunedModels]:
    """Tune every plan's model at the provider of its start model; the outcome by arm.

    `providers` are keyed by address. As many jobs run at a time as each provider allows. Plans of
    several arms with the same `training_key` share the job of the first: the others' jobs point to
    it, and nothing is submitted for them.

    A second call resumes: it takes finished jobs from the store and unfinished ones from the
    provider. A plan with fewer examples than the provider's minimum keeps its start model. If a job
    fails, the others still finish. Then `TuningFailed` names every failure, and the next call makes
    a new attempt; with `on_failure` "keep" the old model stays for good instead and is among
    `TunedModels.kept`. A submission of unknown outcome raises in either case, and so does a job
    that ran out of credit, disk or memory. Raises `providers.errors.RunError` at once, and
    `JobChanged` if a stored job was described differently.

    ```python
    tuned = await tune_models(providers={"embedded:": provider}, store=store, plans=plans)
    tuned["multiagent"][1, "critic"]  # the ModelRef of agent 1's new critic
    ```
    """
    used = {plan.start.address: providers[plan.start.address] for plan in plans}
    _require_capabilities(used, store, plans)
    slots = {
        address: asyncio.Semaphore(max(1, provider.capabilities.max_parallel_jobs))
        for address, provider in used.items()
    }
    tuners = [
        Tuner(used[plan.start.address], store, plan, on_progress, polling, on_failure)
        for plan in plans
    ]
    first, leading = _choose_leading(plans, tuners)
    found = await gather_or_cancel(
        [
            tuners[n].run(slots[address], used[address].capabilities)
            for n in leading
            for address in [plans[n].start.address]
        ]
    )
    failures = [outcome for outcome in found if isinstance(outcome, Exception)]
    if failures:
        raise TuningFailed("\n".join(str(failure) for failure in failures)) from failures[0]
    outcomes = {n: o for n, o in zip(leading, found, strict=True) if not isinstance(o, Exception)}
    for number, plan in enumerate(plans):
        if number not in outcomes:
            outcomes[number] = await tuners[number].share_outcome(
                outcomes[first[plan.training_key]]
            )
    return _group_by_arm(plans, outcomes)


def _choose_leading(
    plans: Sequence[TuningPlan], tuners: Sequence[Tuner]
) -> tuple[dict[tuple[object, ...], int], list[int]]:
    """By training key the number of the first plan that has it, and the plans with own jobs."""
    first: dict[tuple[object, ...], int] = {}
    for number, plan in enumerate(plans):
        first.setdefault(plan.training_key, number)
    # A plan leads if it is the first of its training, or if the provider may already have its job:
    # an earlier start may have listed the arms in another order, and no job is paid for twice.
    leading = [
        n for n, plan in enumerate(plans) if first[plan.training_key] == n or tuners[n].has_begun
    ]
    return first, leading


def _require_capabilities(
    providers: Mapping[str, Provider], store: Store, plans: Sequence[TuningPlan]
) -> None:
    """Raise `Unsupported` if a provider cannot do what the plans ask of it."""
    for address, provider in providers.items():
        if not provider.capabilities.finetune:
            raise Unsupported(f"{address} cannot fine-tune; choose another model or 0 iterations")
        measuring = any(p.validation_share for p in plans if p.start.address == address)
        if measuring and not provider.capabilities.validation:
            raise Unsupported(
                f"{address} takes no validation data; set finetune.validation_share = 0"
            )
        if not provider.capabilities.weights:
            names = [p.dataset.dataset_id for p in plans if p.start.address == address]
            if weighted := store.rows(_WEIGHTED, [names]):
                raise Unsupported(
                    f"{address} takes no weights, and dataset {weighted[0][0]} has rows that do "
                    "not weigh 1; derive it with DatasetRules(repeat=True)"
                )


def _group_by_arm(
    plans: Sequence[TuningPlan], outcomes: Mapping[int, ModelRef | KeptModel]
) -> dict[str, TunedModels]:
    tuned: dict[str, TunedModels] = {}
    for arm in dict.fromkeys(plan.arm for plan in plans):
        models: dict[Owner, ModelRef] = {}
        kept: list[KeptModel] = []
        for number, plan in enumerate(plans):
            outcome = outcomes[number]
            if plan.arm != arm:
                continue
            if isinstance(outcome, KeptModel):
                kept.append(outcome)
                models[plan.owner] = plan.start
            else:
                models[plan.owner] = outcome
        tuned[arm] = TunedModels(models, tuple(kept))
    return tuned
