"""Fine-tuning a society's models: all jobs of an iteration, resumable at every moment."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence

from finetune.errors import FinetuneError, TuningFailed
from finetune.plans import Kept, Owner, Polling, Tuned, TuningPlan, TuningProgress
from finetune.tuner import OnProgress, Tuner
from providers.base import ModelRef, Provider
from providers.errors import Unsupported
from store.ledger import Store

__all__ = ["Kept", "Polling", "Tuned", "TuningFailed", "TuningPlan", "TuningProgress", "tune"]

DEFAULT_POLLING = Polling()


async def tune(
    *,
    provider: Provider,
    store: Store,
    plans: Sequence[TuningPlan],
    on_progress: OnProgress | None = None,
    polling: Polling = DEFAULT_POLLING,
) -> Tuned:
    """Tune every plan's model, at most as many at a time as the provider allows.

    Calling again goes on where it stopped: finished jobs are adopted from the store, unfinished
    ones from the provider. A plan with fewer examples than the provider's minimum keeps its start
    model. A failed job lets the others finish; then `TuningFailed` names every failure, and calling
    again makes a new attempt. Raises `providers.errors.RunError` at once, `JobChanged` where a
    stored job was described differently.
    """
    capabilities = provider.capabilities
    if plans and not capabilities.finetune:
        raise Unsupported(
            f"{provider.base.address} cannot fine-tune; choose another model or 0 iterations"
        )
    slots = asyncio.Semaphore(max(1, capabilities.max_parallel_jobs))
    tuners = [Tuner(provider, store, plan, on_progress, polling) for plan in plans]
    outcomes = await _all([tuner.run(slots, capabilities) for tuner in tuners])
    failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    if failures:
        raise TuningFailed("\n".join(str(failure) for failure in failures)) from failures[0]
    models: dict[Owner, ModelRef] = {}
    kept: list[Kept] = []
    for plan, outcome in zip(plans, outcomes, strict=True):
        if isinstance(outcome, Kept):
            kept.append(outcome)
            models[plan.owner] = plan.start
        elif isinstance(outcome, ModelRef):
            models[plan.owner] = outcome
    return Tuned(models, tuple(kept))


async def _all(
    runs: Sequence[Coroutine[None, None, ModelRef | Kept | FinetuneError]],
) -> list[ModelRef | Kept | FinetuneError]:
    tasks = [asyncio.ensure_future(run) for run in runs]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
