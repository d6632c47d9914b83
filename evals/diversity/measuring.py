"""What is missing of a society's diversity, and how it gets into the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import get_args

from evals.diversity import encoders
from evals.diversity.cache import Cache
from evals.diversity.estimates import Pair, Responses, estimate_mean, measure_dissimilarities
from evals.diversity.likelihood import Likelihoods, Method, find_base, list_requests
from evals.diversity.responses import read_responses
from providers.base import Provider
from providers.errors import Unsupported
from providers.preflight import SCORES_REMEDY
from providers.types import ModelRef
from store.ledger import Store
from store.measures import Diversity, DiversityMeasure, Likelihood
from store.records import IN_STAGE, AgentRole, StageKey

Progress = Callable[[int], None]
"""Called with the steps done; a text embedded, or a request answered, is a step."""

_STORED = f"""
    select role, measure, value is not null
    from diversity
    where {IN_STAGE} and task = $task
      and (measure <> 'embedding' or encoder = $encoder) and responses = 'all'
"""
_NO_SCORE = f"the provider gives no log-probabilities of a given text; {SCORES_REMEDY}"
_GREEDY = (
    "the provider tells only the probabilities of given texts, and greedy answers are no sample to "
    "estimate a divergence from; measure sampled answers, or use a local model"
)


MEASURES: tuple[DiversityMeasure, ...] = get_args(DiversityMeasure)


@dataclass(frozen=True, slots=True)
class DiversityOptions:
    """The measures, and how they are taken.

    `encoder` names the sentence encoder (see `encoders`), `device` where it runs ("auto": CUDA
    where there is some). `questions` bounds how many questions are looked at; they are chosen by
    the hash of their ids, so they are the same for all societies. `drawn` says how sampled answers
    were drawn where that was not from the models' own distributions; None: temperature 1, top_p 1.
    """

    measures: tuple[DiversityMeasure, ...]
    encoder: str = "minilm"
    questions: int = 100
    device: str = "auto"
    drawn: str | None = None


@dataclass(frozen=True, slots=True)
class _Result:
    """One measure of one role: its pairs, how they came about, and what there is to say."""

    encoder: str
    pairs: Sequence[Pair]
    notes: Sequence[str] = ()


class Measurement:
    """What is to be measured of a stage's debates on the questions of one task.

    That is all of `options` that the store does not have or, with `again`, also what it has.

    `providers` by the addresses of their bases. What is in `cache` is not computed again.
    """

    def __init__(
        self,
        store: Store,
        providers: Mapping[str, Provider],
        stage: StageKey,
        task: str,
        options: DiversityOptions,
        cache: Cache,
        *,
        again: bool = False,
    ) -> None:
        self.stage, self.task = stage, task
        self._store = store
        self._providers = providers
        self._options = options
        self._responses = read_responses(store, stage, task, options.questions)
        which = {**stage.params, "task": task, "encoder": options.encoder}
        stored = [] if again else store.rows(_STORED, which)
        # What a provider could not tell may be had by now; somebody to compare with may not.
        done = {(role, measure) for role, measure, known in stored if known or self._pairless(role)}
        self.todo: tuple[tuple[AgentRole, DiversityMeasure], ...] = tuple(
            (role, measure)
            for role in self._responses
            for measure in options.measures
            if (role, measure) not in done
        )
        self._cache = cache
        if not again:
            self._recall()
        self._known = Likelihoods(providers, cache, self._keep)
        self._methods: dict[AgentRole, Method] = {}
        self._unable: dict[tuple[AgentRole, DiversityMeasure], str] = {}
        for role, measure in self.todo:
            if measure != "embedding":
                self._want(role, measure)
        self._texts = self._distinct_texts()

    @property
    def steps(self) -> int:
        """Texts to be embedded and requests to be made."""
        return len(self._unseen) + self._known.steps

    @property
    def _unseen(self) -> list[str]:
        return [text for text in self._texts if text not in self._cache.vectors]

    @property
    def tuned_models(self) -> tuple[ModelRef, ...]:
        """The tuned models that will be asked and have to be served for that."""
        roles = {role for role, measure in self.todo if measure != "embedding"}
        found = (r.model for role in sorted(roles) for r in self._responses[role])
        return tuple(dict.fromkeys(model for model in found if model.artifact is not None))

    async def carry_out(self, on_progress: Progress = lambda done: None) -> list[Diversity]:
        """Measure and store it, each answer and each measure as it comes; returns the new rows.

        What a provider cannot tell is stored without a value and with a note. Raises the providers'
        other errors and `EncoderUnavailable`; a later measurement goes on from what is stored.
        """
        asked = 0

        def on_step() -> None:
            nonlocal asked
            asked += 1
            on_progress(asked)

        try:
            await self._known.ask(on_step)
        # Values from a part of the models would not speak for the society, so none is used.
        except Unsupported as error:
            self._known = Likelihoods(self._providers, Cache(), self._keep)
            self._unable = dict.fromkeys(self.todo, str(error))
        likelihoods = [pair for pair in self.todo if pair[1] != "embedding"]
        rows = await self._store_results(likelihoods, self._likelihood)
        if len(likelihoods) < len(self.todo):
            notes = await self._embed(lambda done: on_progress(asked + done))

            def measure_embedding(role: AgentRole, measure: DiversityMeasure) -> _Result:
                pairs = measure_dissimilarities(self._responses[role], self._cache.vectors)
                return _Result(self._options.encoder, pairs, notes)

            embedded = [pair for pair in self.todo if pair[1] == "embedding"]
            rows += await self._store_results(embedded, measure_embedding)
        return sorted(rows, key=lambda row: self.todo.index((row.role, row.measure)))

    async def _store_results(
        self,
        measured: Sequence[tuple[AgentRole, DiversityMeasure]],
        result: Callable[[AgentRole, DiversityMeasure], _Result],
    ) -> list[Diversity]:
        rows = [row for pair in measured for row in self._as_rows(*pair, result(*pair))]
        await self._store.append(*rows)
        return rows

    async def _keep(self, found: Sequence[Likelihood]) -> None:
        await self._store.append(*found)

    def _recall(self) -> None:
        """Take over what an earlier measurement has found out."""
        responses = [
            r
            for role, measure in self.todo
            if measure != "embedding"
            for r in self._responses[role]
        ]
        models = {response.model for response in responses}
        # Divergences from the base are stored with the base's id, so it is looked up too.
        models |= {find_base(model) for model in models}
        self._cache.recall(self._store, models, dict.fromkeys(r.prompted for r in responses))

    def _distinct_texts(self) -> list[str]:
        roles = [role for role, measure in self.todo if measure == "embedding"]
        return list(dict.fromkeys(r.text for role in roles for r in self._responses[role]))

    async def _embed(self, on_progress: Progress) -> Sequence[str]:
        """See to the vectors of all texts; returns what there is to say about them."""
        if unseen := self._unseen:
            encoder = await asyncio.to_thread(
                encoders.load_encoder, self._options.encoder, self._options.device
            )
            # In a thread, so that the event loop stays free meanwhile.
            found = await asyncio.to_thread(encoder.encode, unseen, on_progress)
            self._cache.vectors.update(zip(unseen, found, strict=True))
        cut = sum(self._cache.vectors[text].cut for text in self._texts)
        if not cut:
            return ()
        return [
            f"of {cut} of {len(self._texts)} texts only the beginning was seen, which is all that "
            "the encoder takes"
        ]

    def _want(self, role: AgentRole, measure: DiversityMeasure) -> None:
        """Ask for what a measure needs, or remember why it cannot be had."""
        responses = self._responses[role]
        able = [
            self._providers[address].capabilities
            for address in sorted({response.model.address for response in responses})
        ]
        self._methods[role] = "exact" if all(each.divergences for each in able) else "sampled"
        if measure == "nll" or self._methods[role] == "sampled":
            if not all(each.score for each in able):
                self._unable[role, measure] = _NO_SCORE
            elif measure != "nll" and self.stage.decoding == "greedy":
                self._unable[role, measure] = _GREEDY
        if (role, measure) not in self._unable:
            for request in list_requests(responses, measure):
                self._known.request(request, measure, self._methods[role])

    def _likelihood(self, role: AgentRole, measure: DiversityMeasure) -> _Result:
        method = self._methods[role]
        unable = self._unable.get((role, measure))
        wanted = list_requests(self._responses[role], measure)
        values = [(each, self._known.value(each, measure, method)) for each in wanted]
        pairs = [Pair(w.first, w.second, value) for w, value in values if value is not None]
        if unable is not None and len(pairs) < len(wanted):
            # Equal models are known to be equal without asking; one pair short, nothing is known.
            return _Result("" if measure == "nll" else "exact", [], [unable])
        if measure == "nll":
            foreign, encoder = 0, ""
        else:
            foreign, encoder = sum(each.foreign for each in wanted), method
            if unable is not None:
                encoder = "exact"
        notes = []
        if encoder == "sampled" and not all(each.equal for each in wanted):
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
        if self._options.drawn is not None:
            note += (
                f"; drawn with {self._options.drawn}, so it leans towards what the speaking "
                "model finds likely"
            )
        return note

    def _as_rows(
        self, role: AgentRole, measure: DiversityMeasure, result: _Result
    ) -> Iterator[Diversity]:
        for responses in get_args(Responses):
            found = estimate_mean(result.pairs, responses)
            # A distance is never negative, but a t interval may reach below zero; an estimate by
            # samples may be.
            if result.encoder != "sampled" and found.low is not None:
                found = replace(found, low=max(0.0, found.low))
            notes = list(result.notes)
            if found.value is None and not notes:
                notes.append(self._nobody(role, responses))
            yield Diversity(
                **asdict(self.stage),
                task=self.task,
                role=role,
                measure=measure,
                responses=responses,
                encoder=result.encoder,
                **asdict(found),
                note="; ".join(notes) or None,
            )

    def _pairless(self, role: AgentRole) -> bool:
        """Fewer than two agents have spoken, so nobody can be compared with anybody."""
        return len({response.agent for response in self._responses.get(role, ())}) < 2

    def _nobody(self, role: AgentRole, responses: Responses) -> str:
        """Why there is no pair."""
        if not self._responses[role]:
            return "no agent has said anything in that round"
        if self._pairless(role):
            return "there is one agent only, and nobody to compare it with"
        if responses == "agreeing":
            return "no question has responses enough that agree with the label"
        return "no question has two responses"
