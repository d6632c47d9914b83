"""What is fine-tuned in one iteration of an arm, and how: the config's part of every job."""

from __future__ import annotations

from collections.abc import Mapping

from finetune.datasets import SHARED_AGENT, DatasetRules
from finetune.plans import KEPT, TuningPlan
from providers.base import Choosy, Provider
from providers.errors import InvalidSettings
from providers.examination import trains_in_process
from providers.types import Capabilities, ModelRef
from society.config.schema import Config
from society.method.agents import ROLES, AgentRole
from society.method.arms import Arm, build_arms, is_tuned
from store.ledger import Store
from store.records import Dataset, Job

_EVALUATED = "SELECT 1 FROM turns WHERE split = 'eval' AND iteration = ? AND arm = ? LIMIT 1"


def tuned_roles(arm: Arm) -> list[tuple[int, AgentRole]]:
    """The (agent, role) pairs that are fine-tuned; agent 0 is a model that all agents share."""
    agents = [SHARED_AGENT] if arm.shared else range(1, arm.agents + 1)
    return [(agent, role) for role in arm.tuned for agent in agents]


def count_tuned(config: Config) -> int:
    """How many models one iteration of the whole experiment makes at most."""
    return sum(len(tuned_roles(arm)) for arm in build_arms(config) if arm.iterations)


def build_rules(config: Config, arm: Arm) -> DatasetRules:
    """Which of the learnable rows the datasets take."""
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
        seed=config.seed,
        validation_share=config.finetune.validation_share,
    )


def keep_job_settings(planned: TuningPlan, store: Store) -> TuningPlan:
    """`planned`, with the settings of the job that is there already, where it keeps them.

    A job that succeeded, goes on or may be going on keeps its settings, and so does the decision
    that the old model stays, once something was built upon it. One that failed gets new ones, and
    so does one that ended with the process it ran in.
    """
    ended = ("succeeded", "skipped")
    jobs = [
        job
        for job in store.jobs(planned.iteration)
        if (job.arm, job.agent, job.role) == (planned.arm, planned.agent, planned.role)
        and job.dataset_id == planned.dataset.dataset_id
        and job.status not in ("failed", "cancelled")
        and job.settings is not None
        and (job.status in ended or not trains_in_process(planned.start.address))
    ]
    if not is_evaluated(store, planned.iteration, planned.arm):
        jobs = [job for job in jobs if job.status != "skipped" or is_final(job)]
    if not jobs:
        return planned
    # Once the old model has been kept for good, nothing else counts.
    settled = max(jobs, key=lambda job: (is_final(job), job.status == "succeeded"))
    return planned.with_settings(str(settled.settings))


def is_final(job: Job) -> bool:
    """Whether a job says that the old model stays for good after a failure."""
    return job.status == "skipped" and job.job_id.endswith(KEPT)


def is_evaluated(store: Store, iteration: int, arm: str) -> bool:
    """Whether the society after this pass has answered anything."""
    return bool(store.rows(_EVALUATED, [iteration, arm]))


def require_trainable(config: Config, providers: Mapping[str, Provider]) -> None:
    """Raise `InvalidSettings` where a provider that is to train cannot do so with [finetune]."""
    faults = [
        f"{address}: {fault}"
        for address, provider in providers.items()
        if config.iterations and is_tuned(config, address)
        for fault in find_faults(config, provider)
    ]
    if faults:
        raise InvalidSettings("\n".join(faults))


def find_faults(config: Config, provider: Provider) -> list[str]:
    """What of [finetune] a provider cannot do, each with its remedy."""
    if not provider.capabilities.finetune:
        return ["it cannot fine-tune; set iterations = 0, or choose another model"]
    faults: list[str] = []
    if isinstance(provider, Choosy):
        for role in ROLES:
            faults += provider.unsupported(config.finetune.hyperparameters(role))
    if fault := find_validation_fault(config, provider.capabilities):
        faults.append(fault)
    return list(dict.fromkeys(faults))


def find_validation_fault(config: Config, capabilities: Capabilities) -> str | None:
    """Why validation data cannot be had as asked for, if so."""
    share = config.finetune.validation_share
    if not share or capabilities.validation:
        return None
    return (
        f"finetune.validation_share = {share}: it measures nothing during training and takes no "
        "validation data; set finetune.validation_share = 0"
    )
