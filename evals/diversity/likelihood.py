"""Negative log-likelihoods of responses under other agents' models, and divergences of the models.

First everything that has to be asked is collected, each thing once, then it is asked, many at a
time, then values are read off the answers. A request that a provider refuses, such as one with a
conversation that does not fit into another model's context, has no value.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal, TypeVar

from evals.diversity.cache import Cache, TextScore, build_divergence_row, build_score_row
from evals.diversity.estimates import list_ordered_pairs
from evals.diversity.responses import PromptedText, Response
from providers.base import Provider
from providers.errors import RequestError
from providers.gathering import gather_or_cancel
from providers.types import Divergence, ModelRef
from store.measures import DiversityMeasure, Likelihood

Method = Literal["exact", "sampled"]
Keep = Callable[[Sequence[Likelihood]], Awaitable[None]]
"""Stores what was found out; returns once it is safe."""
T = TypeVar("T")

IN_FLIGHT = 256
"""Requests that wait at providers at one time; they batch and limit by themselves."""


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """A response `first` and a model to look at it with: that of `second`, or the base (None)."""

    first: Response
    second: Response | None
    model: ModelRef

    @property
    def text(self) -> PromptedText:
        return self.first.prompted

    @property
    def equal(self) -> bool:
        """Whether the model is the one that has spoken."""
        return self.first.model == self.model

    @property
    def foreign(self) -> bool:
        """Whether the two models have different bases, and so different vocabularies."""
        return self.first.model.address != self.model.address


@dataclass
class Likelihoods:
    """What is known about texts under models, and what is to be found out.

    `steps` counts what `ask` will ask for. `keep` stores each answer as it comes.
    """

    providers: Mapping[str, Provider]
    cache: Cache
    keep: Keep
    # Dicts as ordered sets: each thing is asked once, and in the same order on every start.
    _to_score: dict[tuple[ModelRef, PromptedText], None] = field(default_factory=dict)
    _to_compare: dict[tuple[ModelRef, PromptedText], dict[ModelRef, None]] = field(
        default_factory=dict
    )

    @property
    def steps(self) -> int:
        return len(self._to_score) + len(self._to_compare)

    def request(self, wanted: ScoreRequest, measure: DiversityMeasure, method: Method) -> None:
        """Ask for what a request needs."""
        if measure == "nll":
            self._request_score(wanted.model, wanted.text)
        # Equal models have no divergence; models with different vocabularies have none that is
        # defined.
        elif wanted.equal or wanted.foreign:
            return
        elif method == "sampled":
            self._request_score(wanted.first.model, wanted.text)
            self._request_score(wanted.model, wanted.text)
        elif (wanted.first.model, wanted.model, wanted.text) not in self.cache.nats:
            self._to_compare.setdefault((wanted.first.model, wanted.text), {})[wanted.model] = None

    def _request_score(self, model: ModelRef, text: PromptedText) -> None:
        if (model, text) not in self.cache.scores:
            self._to_score[model, text] = None

    async def ask(self, on_step: Callable[[], None]) -> None:
        """Ask for everything wanted. Raises the providers' errors that are about more than one
        request."""

        async def one_score(model: ModelRef, text: PromptedText) -> None:
            provider = self.providers[model.address]
            found = await _unless_refused(provider.score(model, text.messages, text.text))
            scored = None if found is None else TextScore.of(found)
            self.cache.scores[model, text] = scored
            if scored is not None:
                # Stored at once, so that a measurement that is stopped does not pay for it again.
                await self.keep([build_score_row(model, text, scored)])
            on_step()

        async def one_comparison(
            p: ModelRef, text: PromptedText, others: Sequence[ModelRef]
        ) -> None:
            provider = self.providers[p.address]
            found = await _unless_refused(provider.divergences(p, others, text.messages, text.text))
            nats = [None if found is None else _average_nats(found[i]) for i in range(len(others))]
            self.cache.nats |= {(p, q, text): n for q, n in zip(others, nats, strict=True)}
            pairs = zip(others, nats, strict=True)
            await self.keep(
                [build_divergence_row(p, q, text, n) for q, n in pairs if n is not None]
            )
            on_step()

        await gather_or_cancel(
            [
                *(one_score(model, text) for model, text in self._to_score),
                *(one_comparison(p, text, tuple(qs)) for (p, text), qs in self._to_compare.items()),
            ],
            in_flight=IN_FLIGHT,
        )

    def value(
        self, wanted: ScoreRequest, measure: DiversityMeasure, method: Method
    ) -> float | None:
        """NLL of the response under the request's model, or D(its own model ‖ the model) along
        it, nats per token; None where it is not known.

        `sampled` is the mean of log p − log q of the tokens that p has drawn, which is right on
        average over many texts and may be negative.
        """
        if measure == "nll":
            score = self.cache.scores.get((wanted.model, wanted.text))
            return None if score is None else -score.mean
        if wanted.equal:
            return 0.0
        if method == "exact":
            return self.cache.nats.get((wanted.first.model, wanted.model, wanted.text))
        drawn = self.cache.scores.get((wanted.first.model, wanted.text))
        other = self.cache.scores.get((wanted.model, wanted.text))
        # Cut into other tokens, the two means would be over different things.
        if drawn is None or other is None or drawn.tokens != other.tokens:
            return None
        return drawn.mean - other.mean


def list_requests(responses: Sequence[Response], measure: DiversityMeasure) -> list[ScoreRequest]:
    """What there is to know for a measure: every response with every other agent's model, or with
    the base. Responses are to be sorted by question."""
    if measure == "kl_base":
        return [ScoreRequest(one, None, find_base(one.model)) for one in responses]
    # In both orders: the divergence of p from q is not that of q from p.
    return [ScoreRequest(one, other, other.model) for one, other in list_ordered_pairs(responses)]


def find_base(model: ModelRef) -> ModelRef:
    """The untuned model that `model` was tuned from, or is."""
    return ModelRef(model.address, model.address)


def _average_nats(divergence: Divergence) -> float | None:
    return fmean(divergence.nats) if divergence.nats else None


async def _unless_refused(call: Awaitable[T]) -> T | None:
    try:
        return await call
    # The fault of this one request; every other error ends the measurement.
    except RequestError:
        return None
