"""What has been computed already: arms that share answers or models need it once only."""

from __future__ import annotations

from dataclasses import dataclass, field

from evals.diversity.encoders import Vector
from evals.diversity.responses import Said
from providers.base import ModelRef, Score


@dataclass
class Memory:
    """Results of one `Wanted`, by what they depend on; None where a provider has refused.

    scores: of a text under a model. nats: nats per token of D(first ‖ second) along a text.
    vectors: of a text by the sentence encoder.
    """

    scores: dict[tuple[ModelRef, Said], Score | None] = field(default_factory=dict)
    nats: dict[tuple[ModelRef, ModelRef, Said], float | None] = field(default_factory=dict)
    vectors: dict[str, Vector] = field(default_factory=dict)
