"""The section [sampling]: how answers are drawn, by all agents and by each."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from providers.types import EXTRA_SETTINGS, Sampling
from society.config.values import (
    Count,
    NotNegative,
    Penalty,
    Positive,
    Section,
    Share,
    StopStrings,
    TopP,
    Whole,
)
from store.records import Decoding


class AgentSampling(Section):
    """What one agent has of its own in [sampling]."""

    added = frozenset({"temperature", "top_p", "max_tokens", *EXTRA_SETTINGS})
    temperature: NotNegative | None = None
    top_p: TopP | None = None
    max_tokens: Count | None = None
    top_k: Whole | None = None
    min_p: Share | None = None
    repetition_penalty: Positive | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    stop: StopStrings | None = None


class SamplingSection(Section):
    """How answers are drawn. The paper's released code: temperature 1, top_p 0.9, 2,048 tokens."""

    added = frozenset({"agents", "defaults", *EXTRA_SETTINGS})
    # Where these are not stated, a server may have the model's own values.
    stated = frozenset({"top_k", "min_p", "repetition_penalty"})
    defaults: Literal["society", "model"] = "society"
    """Where `temperature`, `top_p`, `top_k`, `min_p` and `repetition_penalty` come from if they are
    not set: from here, or from the model's `generation_config.json`."""
    temperature: NotNegative = 1.0
    """How much chance there is in an answer; 0 is greedy. Agents differ by chance alone at first,
    so a low temperature leaves the debate little to gain."""
    top_p: TopP = 0.9
    """Keep the likeliest tokens that have this much of the probability together."""
    max_tokens: Count = 2048
    """The longest answer, in tokens. Raise it if the run says that answers were cut: a cut answer
    casts no vote. Reasoning models need several thousand."""
    summary_max_tokens: Count = 512
    """The longest summary, in tokens."""
    top_k: Whole = 0
    """Keep so many of the likeliest tokens; 0 keeps all."""
    min_p: Share = 0.0
    """Keep tokens that are at least so likely, as a part of the likeliest one's probability."""
    repetition_penalty: Positive = 1.0
    """Divide the logits of tokens that prompt or answer have already (negative ones are
    multiplied); 1 is off."""
    frequency_penalty: Penalty = 0.0
    """Of servers: lower the logits of tokens that the answer has, for each time."""
    presence_penalty: Penalty = 0.0
    """Of servers: lower the logits of tokens that the answer has, once."""
    stop: StopStrings = ()
    """Texts that end an answer, which does not contain them: `["\\n\\nQuestion:"]`."""
    agents: tuple[AgentSampling, ...] = Field(default=(), strict=False)
    """Settings of each agent's own, one table each: `[{temperature = 0.6}, {}, {top_k = 40}]`. What
    an entry leaves out has the value of all."""

    @property
    def by_agent(self) -> tuple[SamplingSection, ...]:
        """The settings of every agent, in the agents' order; () if all have the same."""
        return tuple(
            self.model_copy(update={**own.model_dump(), "agents": ()}) for own in self.agents
        )

    def build_sampling(self, decoding: Decoding, seed: int) -> Sampling:
        """The section in the terms of `providers`."""
        return Sampling(
            temperature=self.temperature if decoding == "sampled" else 0.0,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            seed=seed,
            stated_off=tuple(
                name
                for name, off in EXTRA_SETTINGS.items()
                if name in self.stated & self.model_fields_set and getattr(self, name) == off
            ),
            **{name: getattr(self, name) for name in EXTRA_SETTINGS},
        )

    @property
    def draws_from_the_model(self) -> bool:
        """Whether answers are drawn from the model's own distributions."""
        extras = self.build_sampling("sampled", 0).list_extras()
        return self.temperature == self.top_p == 1.0 and extras.keys() <= {"stop"}

    def describe(self) -> str:
        """How answers are drawn: "temperature 0.7, top_p 0.95, top_k 20"."""
        extras = self.build_sampling("sampled", 0).list_extras()
        drawn = {"temperature": self.temperature, "top_p": self.top_p, **extras}
        return ", ".join(
            f"{name} {value:g}" for name, value in drawn.items() if isinstance(value, int | float)
        )

    @property
    def longest(self) -> int:
        """The most tokens that any agent's answer may have."""
        return max((self.max_tokens, *(each.max_tokens for each in self.by_agent)))
