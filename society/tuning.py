"""What is fine-tuned in one iteration, and how: the config's part of every job."""

from __future__ import annotations

from finetune.datasets import DatasetRules
from finetune.plans import TuningPlan
from providers.base import ModelRef
from society.agents import ROLES, AgentRole
from society.config import Config
from store.records import Dataset


def tuned_roles(config: Config) -> list[tuple[int, AgentRole]]:
    """The (agent, role) pairs that are fine-tuned: without a second round nobody is a critic."""
    roles = ROLES if config.society.rounds > 1 else ROLES[:1]
    return [(agent, role) for role in roles for agent in range(1, config.society.agents + 1)]


def selection(config: Config) -> DatasetRules:
    """Which of the learnable rows the datasets take."""
    section = config.datasets
    return DatasetRules(
        w=section.w,
        critic_loss=section.critic_loss,
        max_examples=section.max_examples,
        seed=config.seed,
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
