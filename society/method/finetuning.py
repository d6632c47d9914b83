"""The fine-tuning stage: a dataset for every model, and a job that trains the model on it.

The datasets and the jobs themselves are the work of `finetune`; this module says what they are made
of: which models an arm trains, from where each starts, and with which settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from finetune.dataset_rows import Shape
from finetune.datasets import SHARED_AGENT, DatasetRules, derive_datasets
from finetune.jobs import TuningProgress, tune_models
from finetune.plans import KEPT_SUFFIX, TunedModels, TuningPlan, derive_training_seed
from providers import registry
from providers.base import CANNOT_AVERAGE, Provider
from providers.errors import InvalidSettings
from providers.hyperparameters import Hyperparameters, Objective
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

_DISTILLS = "SELECT 1 FROM arms WHERE arm = ? AND (settings ->> '$.distills')::BOOLEAN"

SHAPES: Mapping[Objective, Shape] = {
    "sft": "answers",
    "dpo": "pairs",
    "ipo": "pairs",
    "kto": "feedback",
}
"""What each objective learns from."""

DISTILLED_MODEL: tuple[int, AgentRole] = (SHARED_AGENT, "generator")
"""Whose model is distilled, in an arm that does so in every iteration."""

Datasets = Mapping[str, Mapping[tuple[int, AgentRole], Dataset]]
"""By the arm's name, then by agent and role."""


def build_datasets(run: RunContext, arms: Sequence[Arm], iteration: int) -> Datasets:
    """One dataset for every model that the arms train, from the debates of this iteration."""
    count = sum(len(list_tuned_models(arm)) for arm in arms)
    built: dict[str, dict[tuple[int, AgentRole], Dataset]] = {}
    with run.progress.stage(iteration, "datasets", "datasets", count):
        for arm in arms:
            built[arm.name] = build_arm_datasets(run.store, run.config, arm, iteration)
            run.progress.advance(sum(map(len, built.values())))
    for dataset in (d for datasets in built.values() for d in datasets.values()):
        if dataset.note is not None:
            run.progress.note(f"dataset {dataset.dataset_id}: {dataset.note}")
    return built


def build_arm_datasets(
    store: Store, config: Config, arm: Arm, iteration: int
) -> dict[tuple[int, AgentRole], Dataset]:
    """The datasets of one arm. Those of providers that take no weights have repeated rows."""
    owners = list_tuned_models(arm)
    # Pooled rows, and those of single agents, are derived apart from each other.
    sorts = {
        agent: (registry.info(config.base_address(agent)).weights, agent == SHARED_AGENT)
        for agent, _ in owners
    }
    built: dict[tuple[int, AgentRole], Dataset] = {}
    for weights, pooled in dict.fromkeys(sorts.values()):
        rules = replace(build_dataset_rules(config, arm), repeat=not weights)
        chosen = [owner for owner in owners if sorts[owner[0]] == (weights, pooled)]
        built |= derive_datasets(store, iteration, arm.name, chosen, rules)
    return {owner: built[owner] for owner in owners}


async def finetune_agents(
    run: RunContext, societies: Mapping[str, Society], datasets: Datasets, iteration: int
) -> dict[str, Society]:
    """Train every model on its own dataset; returns the next society of every arm.

    A model with too few examples stays as it is, and so does one whose job failed under
    `finetune.on_failure = "keep"`. A note says so.
    """
    config, progress = run.config, run.progress
    plans = [
        _plan_model(run, societies[arm], dataset)
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
        after = dict(societies)
        # What starts from a model of this iteration is trained once that is there.
        for waits in (False, True):
            tuned = await tune_models(
                providers=run.connections,
                store=run.store,
                plans=[
                    _plan_model(run, after[plan.arm], plan.dataset) if waits else plan
                    for plan in plans
                    if _starts_from_generator(config, plan) == waits
                ],
                on_progress=report_job,
                on_failure=config.finetune.on_failure,
            )
            after |= _replace_models(run, after, tuned)
    return {arm: after[arm] for arm in datasets}


def _replace_models(
    run: RunContext, societies: Mapping[str, Society], tuned: Mapping[str, TunedModels]
) -> dict[str, Society]:
    """The societies with their tuned models; a note says who keeps the old one."""
    after: dict[str, Society] = {}
    for arm, models in tuned.items():
        for kept in models.kept:
            model = run.name_model(arm, kept.agent, kept.role)
            run.progress.note(f"{model} keeps its old model: {kept.reason}")
        old = {(kept.agent, kept.role) for kept in models.kept}
        if any(each.name == arm and each.distills for each in run.experiment.arms):
            # What was distilled is where the next training starts; it debates in nobody's place.
            old.add(DISTILLED_MODEL)
        new = {owner: model for owner, model in models.items() if owner not in old}
        after[arm] = societies[arm].with_models(new)
    return after


def _starts_from_generator(config: Config, plan: TuningPlan) -> bool:
    section = config.for_arm(plan.arm).finetune
    return plan.role == "critic" and section.critic_init == "generator"


def read_tuned_models(
    store: Store, iteration: int, arm: str
) -> dict[tuple[int, AgentRole], ModelRef]:
    """The newest tuned model of every (agent, role) of an arm after `iteration` iterations.

    A role that no job has tuned so far is missing; agent 0 stands for a model that all share.
    """
    found: dict[tuple[int, AgentRole], ModelRef] = {}
    for k in range(1, iteration + 1):
        tuned = store.rows(_TUNED, [k, arm])
        found |= {(agent, role): ModelRef(*model) for agent, role, *model in tuned}
    return found


def load_society(store: Store, society: Society, iteration: int, arm: str) -> Society:
    """The society that the untuned `society` has become after `iteration` iterations."""
    tuned = read_tuned_models(store, iteration, arm)
    if store.rows(_DISTILLS, [arm]):
        # No agent answers with it, not even one that could not be trained.
        tuned.pop(DISTILLED_MODEL, None)
    return society.with_models(tuned)


def _plan_model(run: RunContext, society: Society, dataset: Dataset) -> TuningPlan:
    """The job of a dataset. One that exists already keeps its settings, so that its digest stays
    the same and `tune_models` finds it instead of submitting it twice."""
    section = run.config.for_arm(dataset.arm).finetune
    start = society.model(dataset.agent, dataset.role)
    base = run.connections.base_of(dataset.agent)
    distills = any(arm.name == dataset.arm and arm.distills for arm in run.experiment.arms)
    if distills:
        before = read_tuned_models(run.store, dataset.iteration - 1, dataset.arm)
        base = before.get(DISTILLED_MODEL, base)
    critic_init = section.critic_init if dataset.role == "critic" else "own"
    if critic_init == "generator":
        start = society.model(dataset.agent, "generator")
    elif critic_init == "base" or section.init == "fresh" or distills:
        start = base
    plan = build_plan(run.config, run.name, dataset, start)
    return keep_job_settings(plan, run.store, run.config.seed)


def list_tuned_models(arm: Arm) -> list[tuple[int, AgentRole]]:
    """The (agent, role) pairs that are fine-tuned; agent 0 is a model that all agents share, or the
    one that is distilled of them."""
    agents = [SHARED_AGENT] if arm.shares_models else range(1, arm.agents + 1)
    distilled = [DISTILLED_MODEL] if arm.distills else []
    return [*((agent, role) for role in arm.tuned for agent in agents), *distilled]


def count_tuned_models(config: Config) -> int:
    """How many models one iteration of the whole experiment makes at most."""
    return sum(len(list_tuned_models(arm)) for arm in build_arms(config) if arm.iterations)


def build_dataset_rules(config: Config, arm: Arm) -> DatasetRules:
    """Which of the trainable rows the datasets take."""
    own = config.for_arm(arm.name)
    section = own.datasets
    return DatasetRules(
        shape=SHAPES[own.finetune.objective],
        critics=section.critics,
        w=arm.w,
        critic_loss=section.critic_loss,
        max_examples=section.max_examples,
        seed=config.seed,
        matched=arm.data == "matched",
        selections=section.selections,
        # Gold is no vote, and a single answer can be compared with no other.
        margin=None if arm.labels == "gold" else section.margin,
        margin_weights=section.margin_weights and arm.labels != "gold",
        replay=section.replayed,
        replay_share=section.replay_share,
        novelty=section.novelty if arm.train_agents > 1 else None,
        first_answers=section.critic_first_answers,
    )


def build_plan(config: Config, run: str, dataset: Dataset, start: ModelRef) -> TuningPlan:
    """The job that teaches `dataset` to the model `start`, by the settings of the dataset's arm."""
    config = config.for_arm(dataset.arm)
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
    recipes = list_recipes(config)
    for address, provider in providers.items():
        if is_tuned(config, address):
            for recipe in recipes:
                await provider.prepare_tuning(recipe)


def find_faults(config: Config, provider: Provider) -> list[str]:
    """The settings of [finetune] that a provider cannot honor, each with its remedy."""
    if not provider.capabilities.finetune:
        return ["it cannot fine-tune; set iterations = 0, or choose another model"]
    faults: list[str] = []
    for recipe in list_recipes(config):
        faults += provider.validate_hyperparameters(recipe)
    faults += find_lacking(config, provider.capabilities)
    for recipe in list_averaged(config):
        faults += provider.validate_averaging(recipe)
    return list(dict.fromkeys(faults))


def list_averaged(config: Config) -> list[Hyperparameters]:
    """The settings that models are trained with which are averaged later."""
    averaging = [arm for arm in build_arms(config) if arm.labels == "average" and arm.trained]
    return [config.for_arm(a.name).finetune.hyperparameters("generator") for a in averaging]


def list_recipes(config: Config) -> list[Hyperparameters]:
    """The different settings that models are trained with, in any arm and role."""
    sections = [each.finetune for each in config.by_arm]
    return list(dict.fromkeys(s.hyperparameters(role) for s in sections for role in ROLES))


def find_lacking(config: Config, capabilities: Capabilities) -> list[str]:
    """What training needs beside training itself and the provider lacks, each with its remedy."""
    faults = []
    if fault := _find_validation_fault(config, capabilities):
        faults.append(fault)
    faults += [
        f"finetune.objective = {objective!r}: it cannot learn from preferences so; set one of: "
        f"{', '.join(sorted(capabilities.objectives))}"
        for objective in dict.fromkeys(each.objective for each in list_recipes(config))
        if objective not in capabilities.objectives
    ]
    looping = [arm.name for arm in build_arms(config) if arm.distills and arm.iterations > 1]
    if looping and not capabilities.tuned_starts:
        faults.append(
            f"the arm {looping[0]!r} trains from a distilled model, and its jobs start from the "
            "base only; remove the arm, or set iterations = 1"
        )
    if list_averaged(config) and not capabilities.averages:
        faults.append(CANNOT_AVERAGE)
    if not capabilities.context_answers and _trains_last_answers(config):
        faults.append(
            'datasets.critic_loss = "final": its jobs train on all answers of a conversation; set '
            'datasets.critic_loss = "all"'
        )
    return faults


def _trains_last_answers(config: Config) -> bool:
    """Whether a critic is trained on the last answer of its conversations only."""
    return any(
        "critic" in arm.tuned
        and bool(arm.iterations)
        and config.for_arm(arm.name).datasets.critic_loss != "all"
        for arm in build_arms(config)
    )


def _find_validation_fault(config: Config, capabilities: Capabilities) -> str | None:
    share = max(each.finetune.validation_share for each in config.by_arm)
    if not share or capabilities.validation:
        return None
    return (
        f"finetune.validation_share = {share}: it measures nothing during training and takes no "
        "validation data; set finetune.validation_share = 0"
    )
