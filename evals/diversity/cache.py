"""Results that are known already, in memory and in the store.

Arms that share answers or models are measured once, and a measurement that was stopped resumes
where it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Self

from evals.diversity.encoders import Vector
from evals.diversity.responses import PromptedText
from providers.types import ModelRef, Score
from store.content import content_sha256, messages_json
from store.ledger import Store
from store.measures import Likelihood

_KNOWN = """
    select model_id, other_id, sha256, value, tokens_sha256
    from likelihoods
    where sha256 in (select unnest($texts::varchar[]))
"""


@dataclass(frozen=True, slots=True)
class TextScore:
    """A text under a model: `mean` log-probability per token, in nats; `tokens` stands for the
    tokens it was cut into."""

    mean: float
    tokens: str

    @classmethod
    def of(cls, score: Score) -> Self | None:
        """None for a text without a token."""
        if not score.logprobs:
            return None
        # A hash in place of the tokens: only whether two models cut a text alike is asked of them.
        ids = " ".join(map(str, score.token_ids))
        return cls(fmean(score.logprobs), hashlib.sha256(ids.encode()).hexdigest())


@dataclass
class Cache:
    """Results under one `DiversityOptions`, by what they depend on; None for a refused request.

    scores: of a text under a model. nats: nats per token of D(first ‖ second) along a text.
    vectors: of a text by the sentence encoder.
    """

    scores: dict[tuple[ModelRef, PromptedText], TextScore | None] = field(default_factory=dict)
    nats: dict[tuple[ModelRef, ModelRef, PromptedText], float | None] = field(default_factory=dict)
    vectors: dict[str, Vector] = field(default_factory=dict)

    def recall(
        self, store: Store, models: Iterable[ModelRef], texts: Iterable[PromptedText]
    ) -> None:
        """Take over what is stored of these texts under these models."""
        by_id: Mapping[str, ModelRef] = {model.model_id: model for model in models}
        by_digest = {hash_text(text): text for text in texts}
        found = store.rows(_KNOWN, {"texts": list(by_digest)})
        for model_id, other_id, sha256, value, tokens in found:
            model, other, text = by_id.get(model_id), by_id.get(other_id), by_digest[sha256]
            if model is not None and not other_id:
                # What is measured in this process goes before what is stored.
                self.scores.setdefault((model, text), TextScore(value, tokens))
            elif model is not None and other is not None:
                self.nats.setdefault((model, other, text), value)


def build_score_row(model: ModelRef, text: PromptedText, scored: TextScore) -> Likelihood:
    """What is stored of a text under a model."""
    return Likelihood(model.model_id, "", hash_text(text), scored.mean, scored.tokens)


def build_divergence_row(p: ModelRef, q: ModelRef, text: PromptedText, nats: float) -> Likelihood:
    """What is stored of a text under two models."""
    return Likelihood(p.model_id, q.model_id, hash_text(text), nats)


def hash_text(text: PromptedText) -> str:
    """Stands for conversation and text; that of the turn in which the text was text."""
    return content_sha256(messages_json([asdict(m) for m in text.messages]), text.text)
