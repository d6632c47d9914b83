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

from evals.diversity.estimates import ordered
from evals.diversity.memory import Memory, Scored, divergence_row, score_row
from evals.diversity.responses import Response, Said
from providers.base import Provider
from providers.errors import RequestError
from providers.gathering import gather_or_cancel
from providers.types import Divergence, ModelRef
from store.records import DiversityMeasure, Likelihood

Method = Literal["exact", "sampled"]
Keep = Callable[[Sequence[Likelihood]], Awaitable[None]]
"""Stores what was found out; returns once it is safe."""
T = TypeVar("T")

IN_FLIGHT = 256
"""Requests that wait at providers at one time; they batch and limit by themselves."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A response `first` and a model to look at it with: that of `second`, or the base (None)."""

    first: Response
    second: Response | None
    model: ModelRef

    @property
    def said(self) -> Said:
        return self.first.said

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
    memory: Memory
    keep: Keep
    _to_score: dict[tuple[ModelRef, Said], None] = field(default_factory=dict)
    _to_compare: dict[tuple[ModelRef, Said], dict[ModelRef, None]] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        return len(self._to_score) + len(self._to_compare)

    def want(self, wish: Wish, measure: DiversityMeasure, method: Method) -> None:
        """Ask for what a wish needs."""
        if measure == "nll":
            self._want_score(wish.model, wish.said)
        elif wish.equal or wish.foreign:
            return
        elif method == "sampled":
            self._want_score(wish.first.model, wish.said)
            self._want_score(wish.model, wish.said)
        elif (wish.first.model, wish.model, wish.said) not in self.memory.nats:
            self._to_compare.setdefault((wish.first.model, wish.said), {})[wish.model] = None

    def _want_score(self, model: ModelRef, said: Said) -> None:
        if (model, said) not in self.memory.scores:
            self._to_score[model, said] = None

    async def ask(self, on_step: Callable[[], None]) -> None:
        """Ask for everything wanted. Raises the providers' errors that are about more than one
        request."""

        async def one_score(model: ModelRef, said: Said) -> None:
            provider = self.providers[model.address]
            found = await _unless_refused(provider.score(model, said.messages, said.text))
            scored = None if found is None else Scored.of(found)
            self.memory.scores[model, said] = scored
            if scored is not None:
                await self.keep([score_row(model, said, scored)])
            on_step()

        async def one_comparison(p: ModelRef, said: Said, others: Sequence[ModelRef]) -> None:
            provider = self.providers[p.address]
            found = await _unless_refused(provider.divergences(p, others, said.messages, said.text))
            nats = [None if found is None else _per_token(found[i]) for i in range(len(others))]
            self.memory.nats |= {(p, q, said): n for q, n in zip(others, nats, strict=True)}
            pairs = zip(others, nats, strict=True)
            await self.keep([divergence_row(p, q, said, n) for q, n in pairs if n is not None])
            on_step()

        await gather_or_cancel(
            [
                *(one_score(model, said) for model, said in self._to_score),
                *(one_comparison(p, said, tuple(qs)) for (p, said), qs in self._to_compare.items()),
            ],
            in_flight=IN_FLIGHT,
        )

    def value(self, wish: Wish, measure: DiversityMeasure, method: Method) -> float | None:
        """NLL of the response under the wish's model, or D(speaker's model ‖ wish's model) along
        it, nats per token; None where it is not known.

        `sampled` is the mean of log p − log q of the tokens that p has drawn, which is right on
        average over many texts and may be negative.
        """
        if measure == "nll":
            score = self.memory.scores.get((wish.model, wish.said))
            return None if score is None else -score.mean
        if wish.equal:
            return 0.0
        if method == "exact":
            return self.memory.nats.get((wish.first.model, wish.model, wish.said))
        drawn = self.memory.scores.get((wish.first.model, wish.said))
        other = self.memory.scores.get((wish.model, wish.said))
        if drawn is None or other is None or drawn.tokens != other.tokens:
            return None
        return drawn.mean - other.mean


def wishes(responses: Sequence[Response], measure: DiversityMeasure) -> list[Wish]:
    """What there is to know for a measure: every response with every other agent's model, or with
    the base. Responses are to be sorted by question."""
    if measure == "kl_base":
        return [Wish(one, None, base_of(one.model)) for one in responses]
    return [Wish(one, other, other.model) for one, other in ordered(responses)]


def base_of(model: ModelRef) -> ModelRef:
    """The untuned model that `model` was tuned from, or is."""
    return ModelRef(model.address, model.address)


def _per_token(divergence: Divergence) -> float | None:
    return fmean(divergence.nats) if divergence.nats else None


async def _unless_refused(call: Awaitable[T]) -> T | None:
    try:
        return await call
    except RequestError:
        return None
