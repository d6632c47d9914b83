"""Multiagent finetuning: the loop of Algorithm 1 of arXiv 2501.05707.

    all models of all agents are the untuned base                                (lines 1-2)
    evaluate this society; it is iteration 0
    for each iteration:
        debate the training questions with the current society, and vote         (lines 4-14)
        build a dataset for each generator and each critic from its own turns    (lines 16-25)
        fine-tune each of them on its own dataset                                (lines 26-27)
        evaluate the new society, which replaces the old one
        with `stop = "labels"`: choose among the societies so far, and stop if they get worse

All arms of the experiment, baselines and ablations too, go through the same stages side by side.
Every stage first looks up what the store already has and does only the rest. So starting a run
again resumes it, wherever it was stopped, and no stored answer is requested twice.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from society.method.agents import Society
from society.method.arms import order_by_reference
from society.method.diversity import DiversityProbe
from society.method.evaluation import evaluate_society, match_compute
from society.method.experiment import RunContext
from society.method.finetuning import build_datasets, finetune_agents
from society.method.label_voters import debate_training_questions
from society.method.mastery import enter_stage
from society.method.stopping import choose_society
from store.records import Model


async def run_iterations(run: RunContext) -> None:
    """Bring a run to its end, from wherever it is.

    Raises `providers.errors.RunError`, `finetune.jobs.TuningFailed` or `store.errors.StoreError`
    when it has to stop. Everything stored until then stays, and calling again resumes the run.
    """
    arms = run.experiment.arms
    probe = DiversityProbe(run.store, run.config, run.connections)
    store_setup(run)

    societies: dict[str, Society] = {}
    for arm in order_by_reference(arms):
        # Iteration 0 is the untuned society, against which every later one is compared. Arms that
        # train nothing have no other iteration.
        arm = match_compute(run, arm)
        societies[arm.name] = run.connections.start_society(arm.agents)
        await evaluate_society(run, arm, societies[arm.name], 0, probe)
        run.progress.finish_part(0, arm.name, "evaluation")

    stopped: set[str] = set()
    for iteration in range(1, run.config.iterations + 1):
        trained = [arm for arm in arms if arm.trained_in(iteration) and arm.name not in stopped]
        if not trained:
            break
        enter_stage(run, iteration)
        for arm in trained:
            await debate_training_questions(run, arm, societies[arm.name], iteration)
            run.progress.finish_part(iteration, arm.name, "labels")
        # The models of all arms are tuned together: equal jobs of two arms run once, and a
        # provider that trains several models at a time is kept busy.
        datasets = build_datasets(run, trained, iteration)
        societies |= await finetune_agents(run, societies, datasets, iteration)
        for arm in trained:
            run.progress.finish_part(iteration, arm.name, "training")
            await evaluate_society(run, arm, societies[arm.name], iteration, probe)
            run.progress.finish_part(iteration, arm.name, "evaluation")
            if choose_society(run, arm, iteration):
                stopped.add(arm.name)

    store_end(run)


def store_setup(run: RunContext) -> None:
    """Store the arms and the base models, unless an earlier start of this run has."""
    # An arm that is matched in tokens is stored by `match_compute`, once its size is known.
    run.store.write(*(arm.record() for arm in run.experiment.arms if arm.matched_to != "tokens"))
    for provider in run.connections.values():
        base = provider.base
        if run.store.model(base.model_id) is None:
            run.store.write(Model(model_id=base.model_id, provider=base.address))


def store_end(run: RunContext) -> None:
    """Store when the run finished, if it had not finished before."""
    stored = run.store.run()
    if stored is not None and stored.finished_at is None:
        run.store.write(replace(stored, finished_at=datetime.now(UTC)))
