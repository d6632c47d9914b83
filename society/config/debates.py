"""The sections [society] and [consensus]: who debates, and when a vote is a label."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from evals.arm_kinds import OtherResponses
from society.config.values import Count, LabelSource, Section, Share, Words
from society.prompts import ShownThoughts
from store.records import Split


class SocietySection(Section):
    """Who debates, and how."""

    added = frozenset({"system_prompt", "personas", "thoughts", "early_end", "skip_rounds"})
    agents: Count = 3
    """How many agents debate. More agents give better labels; calls, jobs and models grow with
    them. The paper has 3."""
    rounds: Count = 2
    """Rounds of one debate. Critics answer in round 2 and later, so 1 trains generators only."""
    others: OtherResponses = "summarized"
    """How an agent is shown the other agents' responses: in a summary that the base model writes,
    or word for word. Quote them if answers are short: that saves the calls for summaries."""
    models: tuple[str, ...] | None = Field(default=None, strict=False)
    """A base model for each agent, by address. By default all have `model`, which also writes the
    summaries."""
    system_prompt: Words | None = None
    """What opens every agent's conversations. The summarizer has none."""
    personas: tuple[Words, ...] | None = Field(default=None, strict=False)
    """One more system prompt for each agent, after `system_prompt`. Use it if the agents' first
    answers are too alike."""
    thoughts: ShownThoughts = "hidden"
    """Whether the other agents and the summarizer see the thoughts of a reasoning model."""
    early_end: bool | Literal["train", "eval"] = False
    """Leave out the later rounds once all agents agree: in training, in evaluation, or in both. It
    saves calls; in training it also leaves critics fewer examples."""
    skip_rounds: bool = False
    """Take the labels from round 1 in iterations whose later rounds lower agreement. Set it if the
    report shows that debate makes votes worse."""

    def ends_early(self, split: Split) -> bool:
        """Whether debates of this split end once all agents agree."""
        return self.early_end in (True, split)

    @property
    def system_prompts(self) -> tuple[str, ...]:
        """What opens the agents' conversations, in the agents' order; one for all, or none."""
        common = [self.system_prompt] if self.system_prompt else []
        if self.personas is None:
            return tuple(common)
        return tuple("\n\n".join([*common, persona]) for persona in self.personas)

    @property
    def calls(self) -> int:
        """Answers and summaries of one debate."""
        summaries = self.rounds - 1 if self.others == "summarized" else 0
        return self.agents * (self.rounds + summaries)


class ConsensusSection(Section):
    """When a vote in training is a label, and who votes."""

    added = frozenset({"labels", "label_samples", "average_decay"})
    ties: Literal["drop", "first"] = "drop"
    """What a tied vote does: the question is left out, or the answer of the lowest agent number
    counts."""
    quorum: Count | None = None
    """How many voters must have a readable answer. By default more than half of them; 1 accepts
    every vote."""
    labels: LabelSource | None = None
    """Which vote labels: of the last round, of round 1, of an earlier society, or of the agents'
    averaged weights. By default that of the arm's kind."""
    label_samples: Count = 1
    """First answers of each agent that vote on a label. More of them help most in the first
    iterations, and cost calls in training only."""
    average_decay: Share = 0.5
    """With `labels = "average"`: what an iteration's generators weigh, relative to those of the
    iteration after it."""
