"""What is fine-tuned in one iteration of an arm, and how: the config's part of every job."""

from __future__ import annotations

from finetune.datasets import SHARED_AGENT, DatasetRules
from finetune.plans import TuningPlan
from providers.base import ModelRef
from society.agents import AgentRole
from society.arms import Arm
from society.config import Config
from store.records import Dataset


def tuned_roles(arm: Arm) -> list[tuple[int, AgentRole]]:
    """The (agent, role) pairs that are fine-tuned; agent 0 is a model that all agents share."""
    agents = [SHARED_AGENT] if arm.shared else range(1, arm.agents + 1)
    return [(agent, role) for role in arm.tuned for agent in agents]


def all_tuned(config: Config) -> int:
    """How many models one iteration of the whole experiment makes at most."""
    return sum(len(tuned_roles(arm)) for arm in config.all_arms if arm.iterations)


def selection(config: Config, arm: Arm) -> DatasetRules:
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


def plan(config: Config, run: str, dataset: Dataset, start: ModelRef) -> TuningPlan:
    """The job that teaches `dataset` to the model `start`."""
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
