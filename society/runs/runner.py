"""Carrying out a run: its models are opened, paid calls are counted, and the loop does the rest."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

from providers.pricing import Prices
from society.costs import budget
from society.method import loop
from society.method.arms import build_arms
from society.method.connections import Connections
from society.method.debating import require_sampling
from society.method.experiment import Experiment, RunContext
from society.method.finetuning import prepare_tuning, require_trainable
from society.method.progress import Observer, ProgressReporter
from society.runs.deployments import describe_standing
from society.runs.folder import RunFolder, keep_stored_rules
from society.runs.prompts import keep_templates
from society.runs.telemetry import trace_debates
from society.runs.tracking.session import track_run
from store.ledger import Store


async def run_experiment(
    folder: RunFolder, experiment: Experiment, store: Store, observer: Observer
) -> None:
    """Bring a run to its end, from wherever it is; `store` is what `folder.start_run` returned.

    Raises `providers.errors.RunError`, `finetune.jobs.TuningFailed` or `store.errors.StoreError`
    when it has to stop. Everything stored until then stays, and calling again resumes the run.
    """
    config = keep_stored_rules(experiment.config, store.run())
    # The arms too, since they say how many corrected conversations their critics learn from.
    experiment = replace(experiment, config=config, arms=build_arms(config))
    connections = Connections.open(config, folder.models)
    try:
        # Before the first call: a run that cannot be trained would pay for debates in vain.
        require_trainable(config, connections)
        require_sampling(config, connections)
        if (stored := store.run()) is None or stored.finished_at is None:
            await keep_templates(store, connections)
            await prepare_tuning(config, connections, store)
        # Batches go below the budget, so that a batch is budgeted call by call.
        if config.evaluation.batch:
            connections = connections.with_batches(store)
        connections = budget.budget_connections(connections, config, store)
        spent = partial(budget.format_spent, connections)
        async with AsyncExitStack() as stack:
            tracked = await stack.enter_async_context(track_run(config, folder, store, observer))
            progress = ProgressReporter(tracked, spent)
            await stack.enter_async_context(trace_debates(config, folder.name, progress.note))
            connections.listen(progress.note)
            run = RunContext(folder.name, experiment, store, connections, progress)
            await loop.run_iterations(run)
        prices = Prices(config.prices)
        progress.note(await describe_standing(folder.name, connections, store, prices))
    finally:
        # Also of a refused run: trying what will be trained has loaded the model.
        await connections.close()
