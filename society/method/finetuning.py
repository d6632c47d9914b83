"""The fine-tuning stage: a dataset for every model, and a job that trains the model on it.

The datasets and the jobs themselves are the work of `finetune`; this module says what they are made
of: which models an arm trains, from where each starts, and with which settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from finetune.datasets import SHARED_AGENT, DatasetRules, derive_datasets
from finetune.jobs import TuningProgress, tune_models
from finetune.plans import KEPT_SUFFIX, TuningPlan, derive_training_seed
from providers import registry
from providers.base import Provider
from providers.errors import InvalidSettings
from providers.types import Capabilities, ModelRef
from society.config.schema import Config
from society.method.agents import ROLES, Society
from society.method.arms import Arm, build_arms, is_tuned
from society.method.experiment import RunContext
from society.method.unread import require_examples
from store.ledger import Store
from store.records import AgentRole, Dataset, Job

_EVALUATED = "SELECT 1 FROM turns WHERE split = 'eval' AND iteration = ? AND arm = ? LIMIT 1"

# A tuned model that is no further from the base, in nats per token, answers as the base does.
_LEAST_NATS = 1e-3

# The model that a job has made. A job that reuses another job's model, because the two were equal,
# points to that job by shared_job_id.
_TUNED = """
SELECT j.agent, j.role, m.model_id, m.provider, m.artifact, m.sha256
FROM jobs AS j
JOIN models AS m ON m.job_id = coalesce(j.shared_job_id, j.job_id)
WHERE j.iteration = ? AND j.arm = ? AND j.status = 'succeeded'
"""

Datasets = Mapping[str, Mapping[tuple[int, AgentRole], Dataset]]
"""By the arm's name, then by agent and role."""


def build_datasets(run: RunContext, arms: Sequence[Arm], iteration: int) -> Datasets:
    """One dataset for every model that the arms train, from the debates of this iteration."""
    roles = {arm.name: list_tuned_models(arm) for arm in arms}
    built: dict[str, dict[tuple[int, AgentRole], Dataset]] = {}
    with run.progress.stage(iteration, "datasets", "datasets", sum(map(len, roles.values()))):
        for arm in arms:
            rules = build_dataset_rules(run.config, arm)
            built[arm.name] = derive_datasets(
                run.store, iteration, arm.name, roles[arm.name], rules
            )
            run.progress.advance(sum(map(len, built.values())))
    for dataset in (d for datasets in built.values() for d in datasets.values()):
        if dataset.note is not None:
            run.progress.note(f"dataset {dataset.dataset_id}: {dataset.note}")
    return built


async def finetune_agents(
    run: RunContext, societies: Mapping[str, Society], datasets: Datasets, iteration: int
) -> dict[str, Society]:
    """Train every model on its own dataset; returns the next society of every arm.

    A model with too few examples stays as it is, and so does one whose job failed under
    `finetune.on_failure = "keep"`. A note says so.
    """
    config, progress = run.config, run.progress
    # A resumed run plans its finished and running jobs again. They keep the settings they have, so
    # that their digests stay the same and `tune_models` finds them instead of submitting twice.
    plans = [
        keep_job_settings(_plan_model(run, societies[arm], dataset), run.store, config.seed)
        for arm, built in datasets.items()
        for dataset in built.values()
    ]
    if config.stop_if_unread:
        task = run.experiment.questions.task_of(iteration)
        require_examples(run.store, plans, run.connections, task)
    finished: dict[str, float] = {}

    def report_job(news: TuningProgress) -> None:
        progress.note_once(news.note)
        finished[news.job_id] = 1.0 if news.status == "succeeded" else news.progress
        model = run.name_model(news.arm, news.agent, news.role)
        said = "" if news.loss is None else f", loss {news.loss:.3f}"
        if news.base_kl is not None:
            said += f", KL to the base {news.base_kl:.2g} nats per token"
            if news.base_kl < _LEAST_NATS:
                progress.note_once(
                    f"warning: {model}, iteration {iteration}: its KL to the base is "
                    f"{news.base_kl:.2g} nats per token, so it is nearly the base; raise "
                    "finetune.learning_rate or the epochs"
                )
        progress.advance(sum(finished.values()), detail=f"{model}{said}")

    with progress.stage(iteration, "finetune", "models", len(plans)):
        tuned = await tune_models(
            providers=run.connections,
            store=run.store,
            plans=plans,
            on_progress=report_job,
            on_failure=config.finetune.on_failure,
        )
    after: dict[str, Society] = {}
    for arm in datasets:
        for kept in tuned[arm].kept:
            model = run.name_model(arm, kept.agent, kept.role)
            progress.note(f"{model} keeps its old model: {kept.reason}")
        old = {(kept.agent, kept.role) for kept in tuned[arm].kept}
        new = {owner: model for owner, model in tuned[arm].items() if owner not in old}
        after[arm] = societies[arm].with_models(new)
    return after


def load_society(store: Store, society: Society, iteration: int, arm: str) -> Society:
    """The society that the untuned `society` has become after `iteration` iterations."""
    for k in range(1, iteration + 1):
        tuned = store.rows(_TUNED, [k, arm])
        society = society.with_models(
            {(agent, role): ModelRef(*model) for agent, role, *model in tuned}
        )
    return society


def _plan_model(run: RunContext, society: Society, dataset: Dataset) -> TuningPlan:
    start = society.model(dataset.agent, dataset.role)
    if run.config.finetune.init == "fresh":
        start = run.connections.base_of(dataset.agent)
    return build_plan(run.config, run.name, dataset, start)


def list_tuned_models(arm: Arm) -> list[tuple[int, AgentRole]]:
    """The (agent, role) pairs that are fine-tuned; agent 0 is a model that all agents share."""
    agents = [SHARED_AGENT] if arm.shares_models else range(1, arm.agents + 1)
    return [(agent, role) for role in arm.tuned for agent in agents]


def count_tuned_models(config: Config) -> int:
    """How many models one iteration of the whole experiment makes at most."""
    return sum(len(list_tuned_models(arm)) for arm in build_arms(config) if arm.iterations)


def build_dataset_rules(config: Config, arm: Arm) -> DatasetRules:
    """Which of the trainable rows the datasets take."""
    section = config.datasets
    return DatasetRules(
        w=arm.w,
        critic_loss=section.critic_loss,
        max_examples=section.max_examples,
        seed=config.seed,
        matched=arm.data == "matched",
        selections=section.selections,
    )


def build_plan(config: Config, run: str, dataset: Dataset, start: ModelRef) -> TuningPlan:
    """The job that teaches `dataset` to the model `start`, by the config's settings."""
    return TuningPlan(
        run=run,
        iteration=dataset.iteration,
        arm=dataset.arm,
        agent=dataset.agent,
        role=dataset.role,
        start=start,
        dataset=dataset,
        hyperparameters=config.finetune.hyperparameters(dataset.role),
        seed=derive_training_seed(config.seed, dataset.iteration, dataset.agent, dataset.role),
        validation_share=config.finetune.validation_share,
    )


def keep_job_settings(planned: TuningPlan, store: Store, run_seed: int) -> TuningPlan:
    """`planned`, with the settings of the job that exists already, if that job keeps them.

    A job that succeeded, is running or may be running keeps its settings, and so does the decision
    that the old model stays, once something was built on it. A job that failed gets new settings,
    and so does one that ended with the process it ran in. A job of an early version has no stored
    settings; it was trained with `run_seed` itself.
    """
    ended = ("succeeded", "skipped")
    # A job that trained in an earlier process ended with that process, whatever its status says.
    jobs = [
        job
        for job in store.jobs(planned.iteration)
        if (job.arm, job.agent, job.role) == (planned.arm, planned.agent, planned.role)
        and job.dataset_id == planned.dataset.dataset_id
        and job.status not in ("failed", "cancelled")
        and (job.status in ended or not registry.info(planned.start.address).in_process)
    ]
    if any(job.settings is None for job in jobs):
        return replace(planned, seed=run_seed)
    # "skipped" says that the old model stays. Before the next society has answered anything, this
    # may still be decided anew, with other settings.
    if not is_evaluated(store, planned.iteration, planned.arm):
        jobs = [job for job in jobs if job.status != "skipped" or is_final(job)]
    if not jobs:
        return planned
    # Once the old model has been kept for good, nothing else counts.
    settled = max(jobs, key=lambda job: (is_final(job), job.status == "succeeded"))
    return planned.with_settings(str(settled.settings))


def is_final(job: Job) -> bool:
    """Whether a job says that the old model stays for good after a failure."""
    return job.status == "skipped" and job.job_id.endswith(KEPT_SUFFIX)


def is_evaluated(store: Store, iteration: int, arm: str) -> bool:
    """Whether the society after this iteration has answered any evaluation question."""
    return bool(store.rows(_EVALUATED, [iteration, arm]))


def require_trainable(config: Config, providers: Mapping[str, Provider]) -> None:
    """Raise `InvalidSettings` if a provider that has to train cannot do so with [finetune]."""
    faults = [
        f"{address}: {fault}"
        for address, provider in providers.items()
        if config.iterations and is_tuned(config, address)
        for fault in find_faults(config, provider)
    ]
    if faults:
        raise InvalidSettings("\n".join(faults))


async def prepare_tuning(config: Config, providers: Mapping[str, Provider], store: Store) -> None:
    """Let every provider that has to train try what training will make.

    Raises what the provider raises if it could not train, or not answer afterwards.
    """
    over = sum(job.status in ("succeeded", "skipped") for job in store.jobs())
    if over >= config.iterations * count_tuned_models(config):
        return
    recipes = dict.fromkeys(config.finetune.hyperparameters(role) for role in ROLES)
    for address, provider in providers.items():
        if is_tuned(config, address):
            for recipe in recipes:
                await provider.prepare_tuning(recipe)


def find_faults(config: Config, provider: Provider) -> list[str]:
    """The settings of [finetune] that a provider cannot honor, each with its remedy."""
    if not provider.capabilities.finetune:
        return ["it cannot fine-tune; set iterations = 0, or choose another model"]
    faults: list[str] = []
    for role in ROLES:
        faults += provider.validate_hyperparameters(config.finetune.hyperparameters(role))
    if fault := find_validation_fault(config, provider.capabilities):
        faults.append(fault)
    return list(dict.fromkeys(faults))


def find_validation_fault(config: Config, capabilities: Capabilities) -> str | None:
    """Why the provider cannot use the validation share; None if it can."""
    share = config.finetune.validation_share
    if not share or capabilities.validation:
        return None
    return (
        f"finetune.validation_share = {share}: it measures nothing during training and takes no "
        "validation data; set finetune.validation_share = 0"
    )
