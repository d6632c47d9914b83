"""An agent is a generator model and a critic model; a society is N of them and a summarizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from finetune.datasets import SHARED_AGENT
from providers.types import ModelRef
from store.records import AgentRole

ROLES: tuple[AgentRole, ...] = ("generator", "critic")


@dataclass(frozen=True, slots=True)
class Agent:
    """One debater: its generator answers in round 1, its critic in all later rounds.

    `number` counts from 1. Both models start as the base.
    """

    number: int
    generator: ModelRef
    critic: ModelRef


@dataclass(frozen=True, slots=True)
class Society:
    """The agents of one debate. The summarizer stays the untuned base and is never trained.

    >>> base = ModelRef("embedded:", "embedded:")
    >>> [agent.number for agent in Society.from_bases([base] * 3, base).agents]
    [1, 2, 3]
    """

    agents: tuple[Agent, ...]
    summarizer: ModelRef

    @classmethod
    def from_bases(cls, bases: Sequence[ModelRef], summarizer: ModelRef) -> Society:
        """Iteration 0: both models of every agent are its base, `bases` in the agents' order."""
        return cls(tuple(Agent(n, b, b) for n, b in enumerate(bases, start=1)), summarizer)

    def model(self, agent: int, role: AgentRole) -> ModelRef:
        """The model that agent `agent` (from 1) uses in `role`; 0 is a model that all share."""
        owner = self.agents[max(agent, 1) - 1]
        return owner.generator if role == "generator" else owner.critic

    def with_models(self, tuned: Mapping[tuple[int, AgentRole], ModelRef]) -> Society:
        """The next society: tuned models replace the old ones, the others stay.

        A model of agent 0 is shared by all agents.
        """

        # An agent's own new model first, then one that all agents share, else its old model.
        def new(agent: Agent, role: AgentRole, old: ModelRef) -> ModelRef:
            return tuned.get((agent.number, role)) or tuned.get((SHARED_AGENT, role)) or old

        return replace(
            self,
            agents=tuple(
                Agent(a.number, new(a, "generator", a.generator), new(a, "critic", a.critic))
                for a in self.agents
            ),
        )

    def first(self, agents: int) -> Society:
        """The society of only the first `agents` agents."""
        return replace(self, agents=self.agents[:agents])

    @property
    def models(self) -> tuple[ModelRef, ...]:
        """Every distinct model, that of the summarizer too, in a fixed order."""
        used = (m for a in self.agents for m in (a.generator, a.critic))
        return tuple(dict.fromkeys((*used, self.summarizer)))

    @property
    def tuned_models(self) -> tuple[ModelRef, ...]:
        """Every distinct model besides the bare base, in a fixed order."""
        return tuple(model for model in self.models if model.artifact is not None)
