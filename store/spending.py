"""Records of what a run pays: prices, attempts that are no turn, and batches sent to providers."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Literal

from store.records import utc_now

ChargeState = Literal["sent", "answered", "failed", "lost"]
ChargedStage = Literal["debate", "evaluate", "diversity", "ask"]


@dataclass(frozen=True, slots=True)
class Price:
    """What the run pays at the address `provider`, in USD per million tokens.

    `tuned`: for models tuned from the address's base, not for the base. `training_usd` is per token
    trained on; `batch_factor` the share of the price that a batch costs. None where unknown.
    `read_on` is the day the figures were read in `source`, None for the user's own.
    """

    provider: str
    tuned: bool
    input_usd: float
    output_usd: float
    source: str
    cached_input_usd: float | None = None
    training_usd: float | None = None
    batch_factor: float | None = None
    read_on: date | None = None


@dataclass(frozen=True, slots=True)
class Charge:
    """One attempt that was paid, or may have been, and that is no stored turn.

    `state`: "sent" while it is under way (and ignored once `turn_id` is stored), "answered" where
    the answer is not kept as a turn, "failed", or "lost" where the process ended meanwhile.
    `tokens_estimated`: the provider reported no tokens, and these are the most it can have used.
    """

    charge_id: str
    state: ChargeState
    stage: ChargedStage
    model_id: str
    prompt_tokens: int
    completion_tokens: int
    tokens_estimated: bool
    iteration: int | None = None
    arm: str | None = None
    split: str | None = None
    decoding: str | None = None
    question_id: str | None = None
    agent: int | None = None
    role: str | None = None
    turn_id: int | None = None
    created_at: datetime = field(default_factory=utc_now)


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests sent to a provider as one file. `custom_ids` is a JSON list; `batch_id` is None
    until the provider has given one."""

    digest: str
    provider: str
    custom_ids: str
    batch_id: str | None = None
    created_at: datetime = field(default_factory=utc_now)
