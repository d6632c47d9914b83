"""The kinds of conversation that a run will have with a model, for checks before it starts."""

from __future__ import annotations

from providers.types import Message
from society.method.experiment import Experiment

_QUESTION = "What is 2+2?"


def list_conversations(experiment: Experiment, address: str) -> tuple[tuple[Message, ...], ...]:
    """A conversation of every kind that the model at `address` will have.

    Only the roles and their order are those of the run; the texts have no importance.
    """
    config, wording = experiment.config, experiment.config.wording
    found: list[tuple[Message, ...]] = []
    agents = [n for n, model in enumerate(config.agent_models, start=1) if model == address]
    if agents:
        asked = wording.open_conversation(experiment.questions.task, _QUESTION, agents[0])
        found.append(asked)
        if config.society.rounds > 1:
            found.append((*asked, Message("assistant", "4"), Message("user", "Are you sure?")))
    if address == config.model:
        found.append((Message("user", "What do they say?"),))
    return tuple(found)


def trains_all_answers(experiment: Experiment) -> bool:
    """Whether a critic is trained on all answers of its conversations."""
    return any(
        "critic" in arm.tuned
        and arm.iterations
        and experiment.config.for_arm(arm.name).datasets.critic_loss == "all"
        for arm in experiment.arms
    )
