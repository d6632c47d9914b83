"""What is missing of a society's diversity, and how it gets into the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import get_args

from evals.diversity import encoders
from evals.diversity.embedding import dissimilarities
from evals.diversity.encoders import Embedded
from evals.diversity.estimates import Pair, Responses, estimate
from evals.diversity.likelihood import Likelihoods, Method, wishes
from evals.diversity.responses import Place, Response, read
from evals.diversity.wanted import Wanted
from providers.base import ModelRef, Provider
from providers.errors import Unsupported
from store.ledger import Store
from store.records import AgentRole, Diversity, DiversityMeasure

Progress = Callable[[int, int], None]
"""Called with the steps done and all steps: a text embedded, or a request answered, is a step."""

_STORED = """
    select role, measure
    from diversity
    where iteration = ? and arm = ? and split = ? and task = ? and decoding = ?
      and (measure <> 'embedding' or encoder = ?) and value is not null and responses = 'all'
"""
_NO_SCORE = (
    "the provider gives no log-probabilities of a given text; use a local model, or a vLLM server "
    'with score = "vllm" in [provider]'
)
_GREEDY = (
    "the provider tells only the probabilities of given texts, and greedy answers are no sample to "
    "estimate a divergence from; measure sampled answers, or use a local model"
)


@dataclass(frozen=True)
class Plan:
    """What is to be measured at `place`: (role, measure) that are not stored yet."""

    place: Place
    wanted: Wanted
    todo: tuple[tuple[AgentRole, DiversityMeasure], ...]
    responses: Mapping[AgentRole, Sequence[Response]]

    @property
    def tuned_models(self) -> tuple[ModelRef, ...]:
        """The tuned models that will be asked and have to be served for that."""
        asked = {role for role, measure in self.todo if measure != "embedding"}
        found = (r.model for role in sorted(asked) for r in self.responses[role])
        return tuple(dict.fromkeys(model for model in found if model.artifact is not None))


def plan(store: Store, place: Place, wanted: Wanted, *, again: bool = False) -> Plan:
    """What `wanted` asks for at `place` and the store does not have, or all of it `again`."""
    responses = read(store, place, wanted.questions)
    where = (place.iteration, place.arm, place.split, place.task, place.decoding)
    stored = set() if again else set(store.rows(_STORED, [*where, wanted.encoder]))
    todo = tuple(
        (role, measure)
        for role in responses
        for measure in wanted.measures
        if (role, measure) not in stored
    )
    return Plan(place, wanted, todo, responses)


async def carry_out(
    plan: Plan,
    store: Store,
    providers: Mapping[str, Provider],
    on_progress: Progress = lambda done, total: None,
) -> list[Diversity]:
    """Measure what is planned and store it; returns the new rows.

    `providers` by address, with the plan's `tuned_models` served. What a provider cannot tell is
    stored without a value and with a note; its other errors are raised, and nothing is stored.
    """
    work = _Work(plan, providers, on_progress)
    rows = await work.rows()
    await store.append(*rows)
    return rows


@dataclass(frozen=True, slots=True)
class _Result:
    """One measure of one role: its pairs, how they came about, and what there is to say."""

    encoder: str
    pairs: Sequence[Pair]
    notes: Sequence[str] = ()


class _Work:
    def __init__(
        self, plan: Plan, providers: Mapping[str, Provider], on_progress: Progress
    ) -> None:
        self.plan = plan
        self.providers = providers
        self.on_progress = on_progress
        self.known = Likelihoods(providers)
        self.unable: dict[tuple[AgentRole, DiversityMeasure], str] = {}
        self.methods: dict[AgentRole, Method] = {}
        self.done = self.total = 0

    async def rows(self) -> list[Diversity]:
        texts = self._texts()
        for role, measure in self.plan.todo:
            if measure != "embedding":
                self._want(role, measure)
        self.total = len(texts) + self.known.steps
        try:
            await self.known.ask(self._step)
        except Unsupported as error:
            self.known = Likelihoods(self.providers)
            self.unable = dict.fromkeys(self.plan.todo, str(error))
        embedded = await asyncio.to_thread(self._embed, texts) if texts else None
        return [
            row
            for role, measure in self.plan.todo
            for row in self._as_rows(
                role,
                measure,
                self._embedding(role, texts, embedded)
                if measure == "embedding"
                else self._likelihood(role, measure),
            )
        ]

    def _texts(self) -> list[str]:
        """Every text to be embedded, once."""
        roles = [role for role, measure in self.plan.todo if measure == "embedding"]
        return list(dict.fromkeys(r.text for role in roles for r in self.plan.responses[role]))

    def _embed(self, texts: Sequence[str]) -> Embedded:
        encoder = encoders.load(self.plan.wanted.encoder, self.plan.wanted.device)
        before = self.done

        def on_batch(done: int) -> None:
            self.done = before + done
            self.on_progress(self.done, self.total)

        return encoder.encode(texts, on_batch)

    def _step(self) -> None:
        self.done += 1
        self.on_progress(self.done, self.total)

    def _want(self, role: AgentRole, measure: DiversityMeasure) -> None:
        """Ask for what a measure needs, or remember why it cannot be had."""
        responses = self.plan.responses[role]
        able = [
            self.providers[address].capabilities
            for address in sorted({response.model.address for response in responses})
        ]
        self.methods[role] = "exact" if all(each.compare for each in able) else "sampled"
        if measure == "nll" or self.methods[role] == "sampled":
            if not all(each.score for each in able):
                self.unable[role, measure] = _NO_SCORE
            elif measure != "nll" and self.plan.place.decoding == "greedy":
                self.unable[role, measure] = _GREEDY
        if (role, measure) not in self.unable:
            for wish in wishes(responses, measure):
                self.known.want(wish, measure, self.methods[role])

    def _embedding(
        self, role: AgentRole, texts: Sequence[str], embedded: Embedded | None
    ) -> _Result:
        vectors = {} if embedded is None else dict(zip(texts, embedded.vectors, strict=True))
        pairs = dissimilarities(self.plan.responses[role], vectors)
        notes = []
        if embedded is not None and embedded.cut:
            notes.append(
                f"of {embedded.cut} of {len(texts)} texts only the first {embedded.limit} tokens "
                "were seen, which is all the encoder takes"
            )
        return _Result(self.plan.wanted.encoder, pairs, notes)

    def _likelihood(self, role: AgentRole, measure: DiversityMeasure) -> _Result:
        method = self.methods[role]
        unable = self.unable.get((role, measure))
        wanted = wishes(self.plan.responses[role], measure)
        values = [(wish, self.known.value(wish, measure, method)) for wish in wanted]
        pairs = [Pair(w.first, w.second, value) for w, value in values if value is not None]
        if unable is not None and len(pairs) < len(wanted):
            # Equal models are known to be equal without asking; one pair short, nothing is known.
            return _Result("" if measure == "nll" else "exact", [], [unable])
        if measure == "nll":
            foreign, encoder = 0, ""
        else:
            foreign, encoder = sum(wish.foreign for wish in wanted), method
            if unable is not None:
                encoder = "exact"
        notes = []
        if encoder == "sampled" and not all(wish.equal for wish in wanted):
            notes.append(self._sampled_note())
        if foreign:
            notes.append(
                f"{foreign} of {len(wanted)} pairs have different base models and are left out"
            )
        if refused := len(wanted) - foreign - len(pairs):
            notes.append(f"{refused} of {len(wanted)} pairs were refused by the provider, left out")
        return _Result(encoder, pairs, notes)

    def _sampled_note(self) -> str:
        note = "estimated from the sampled texts by log p − log q of their tokens"
        if self.plan.wanted.drawn is not None:
            note += (
                f"; drawn with {self.plan.wanted.drawn}, so it leans towards what the speaking "
                "model finds likely"
            )
        return note

    def _as_rows(
        self, role: AgentRole, measure: DiversityMeasure, result: _Result
    ) -> Iterator[Diversity]:
        for responses in get_args(Responses):
            found = estimate(result.pairs, responses)
            if result.encoder != "sampled" and found.low is not None:
                found = replace(found, low=max(0.0, found.low))
            notes = list(result.notes)
            if found.value is None and not notes:
                notes.append(self._nobody(role, responses))
            yield Diversity(
                **asdict(self.plan.place),
                role=role,
                measure=measure,
                responses=responses,
                encoder=result.encoder,
                **asdict(found),
                note="; ".join(notes) or None,
            )

    def _nobody(self, role: AgentRole, responses: Responses) -> str:
        """Why there is no pair."""
        spoken = self.plan.responses[role]
        if not spoken:
            return "no agent has said anything"
        if len({response.agent for response in spoken}) == 1:
            return "there is one agent only, and nobody to compare it with"
        if responses == "agreeing":
            return "no question has responses enough that agree with the label"
        return "no question has two responses"
