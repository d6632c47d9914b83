"""Records of how different the agents are, and of the likelihoods behind it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from store.records import AgentRole, Decoding, Split, utc_now

DiversityMeasure = Literal["embedding", "nll", "kl", "kl_base"]


@dataclass(frozen=True, slots=True)
class Diversity:
    """How different the agents are, by one measure, in one role of one society.

    `measure`: "embedding" (mean pairwise 1 - cosine), "nll", "kl" (nats per token), "kl_base"
    (against the base). `responses`: "all", or those that agree with ŷ. `encoder` names the sentence
    encoder, or what else the value depends on. `value` is None where it cannot be measured, for the
    reason in `note`, never zero instead; `low` and `high` its 95 % interval over questions.
    """

    iteration: int
    arm: str
    split: Split
    task: str
    decoding: Decoding
    role: AgentRole
    measure: DiversityMeasure
    responses: Literal["all", "agreeing"]
    encoder: str
    value: float | None
    low: float | None
    high: float | None
    questions: int
    pairs: int
    note: str | None = None
    created_at: datetime = field(default_factory=utc_now)


@dataclass(frozen=True, slots=True)
class Likelihood:
    """What is known about one text (`sha256` of a turn: conversation and response) under a model.

    `other_id` empty: `value` is the text's mean log-probability per token, in nats, and
    `tokens_sha256` stands for the tokens it was cut into. Else it is the model that `model_id` is
    compared with, and `value` the divergence from it along the text, nats per token.
    """

    model_id: str
    other_id: str
    sha256: str
    value: float
    tokens_sha256: str | None = None
    created_at: datetime = field(default_factory=utc_now)
