"""The canary: does a server answer with the adapters that it was given?

A server that ignores an adapter, or serves an earlier one from a cache, answers fluently all the
same, and a run would go on for days with the wrong model. So after every load a few fixed
conversations are put to the server and to the trainer, which has the weights themselves:

- the log-probabilities of a fixed answer, where the server gives them (vLLM): those of an adapter
  must be nearer to the trainer's for this adapter than to the base's, and those of the base must be
  the trainer's but for rounding;
- greedy answers, where it does not: where an adapter changes the trainer's answers, it must change
  the server's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from providers.base import Provider
from providers.errors import AdapterNotApplied, RequestError, Unsupported
from providers.types import Message, ModelRef, Request, Sampling, Score

CANARIES: tuple[tuple[str, str], ...] = (
    (
        "What is 12+7*3+5-4*2? Explain your answer, and put it into \\boxed{}.",
        "7*3 is 21 and 4*2 is 8, so it is 12+21+5-8. The answer is \\boxed{30}.",
    ),
    (
        "Name the largest ocean, in one short sentence.",
        "The largest ocean is the Pacific Ocean.",
    ),
)
"""Prompts with the answers whose likelihood is compared."""

_GREEDY = Sampling(temperature=0.0, top_p=1.0, max_tokens=24)
# In nats per token. Rounding in bf16 gives some hundredths, a base in 4 bits about a tenth, and
# another model, another chat template or another tokenizer more than one.
_MOST_OF_BASE = 0.5
_LEAST_SHIFT = 1e-4
_TIMES_NOISE = 4.0


@dataclass(frozen=True, slots=True)
class CanaryAnswers:
    """What a model makes of the canaries: its greedy answers, and the likelihood of the fixed ones.

    `scores` is empty where there are none.
    """

    greedy: tuple[str, ...]
    scores: tuple[Score, ...] = ()


class Canary:
    """The trainer's answers, and the comparison of a server's with them.

    `find_trainer` returns the provider that has the weights. Its answers are kept, so that a
    server can be checked while the trainer has given its memory back.

        canary = Canary(lambda: trainer)
        await canary.prepare([model])
        await canary.check(server, {model.artifact: model_at_the_server}, "http://…")
    """

    def __init__(self, find_trainer: Callable[[], Provider]) -> None:
        self._find_trainer = find_trainer
        self._expected: dict[str | None, CanaryAnswers] = {}
        self._hashes: dict[str | None, str | None] = {}

    def is_prepared(self, models: Sequence[ModelRef]) -> bool:
        """Whether `prepare` has nothing to ask for these models and the base."""
        return not self._list_missing(models)

    def is_ready(self, artifacts: Iterable[str]) -> bool:
        """Whether a server can be checked for the base and the models of these artifacts."""
        return all(name in self._expected for name in (None, *artifacts))

    async def prepare(self, models: Sequence[ModelRef]) -> None:
        """Let the trainer answer for the base and these models, unless it has."""
        trainer = self._find_trainer()
        for model in self._list_missing(models):
            self._expected[model.artifact] = await _ask(trainer, model, scores=True)
            self._hashes[model.artifact] = model.sha256

    def _list_missing(self, models: Sequence[ModelRef]) -> list[ModelRef]:
        # A model that is trained anew has the name of the earlier one, and other weights.
        return [
            model
            for model in (self._find_trainer().base, *models)
            if model.artifact not in self._expected or self._hashes[model.artifact] != model.sha256
        ]

    async def check(self, server: Provider, names: Mapping[str, ModelRef], where: str) -> None:
        """Compare the server's answers with the trainer's, which `prepare` has collected.

        `names` are the server's names of the tuned models, by artifact. Requests go out one by one:
        several of these at a time end vLLM's engine on a CPU. Raises `AdapterNotApplied`.
        """
        base = self._expected[None]
        found = await _ask_server(server, server.base, scores=True)
        noise = _compare_base(base, found, where)
        for artifact, name in names.items():
            expected = self._expected[artifact]
            answers = await _ask_server(server, name, scores=bool(found.scores))
            if noise is None or not _are_alike((*answers.scores, *expected.scores), base):
                fault = _compare_texts(expected, base, answers, found)
            else:
                fault = _compare_scores(expected, base, answers, noise)
            if fault is not None:
                raise AdapterNotApplied(
                    f"{where} does not answer with the adapter of {artifact}: {fault}. Start the "
                    "server anew; if it stays so, its version does not apply such adapters: take "
                    "another version, or leave [serving] out"
                )


async def _ask(provider: Provider, model: ModelRef, *, scores: bool) -> CanaryAnswers:
    greedy, scored = [], []
    for number, (prompt, answer) in enumerate(CANARIES):
        messages = (Message("user", prompt),)
        request = Request(model, messages, _GREEDY, f"canary {number}")
        greedy.append((await provider.complete(request)).text)
        if scores:
            scored.append(await provider.score(model, messages, answer))
    return CanaryAnswers(tuple(greedy), tuple(scored))


async def _ask_server(server: Provider, model: ModelRef, *, scores: bool) -> CanaryAnswers:
    if scores and server.capabilities.score:
        try:
            return await _ask(server, model, scores=True)
        except (RequestError, Unsupported):
            # Servers that only look like vLLM take no such request.
            pass
    return await _ask(server, model, scores=False)


def _are_alike(scores: Sequence[Score], base: CanaryAnswers) -> bool:
    """Whether all scores are of the very tokens that the trainer's base has scored."""
    ids = [score.token_ids for score in base.scores]
    return len(scores) == 2 * len(ids) and [score.token_ids for score in scores] == [*ids, *ids]


def _compare_base(expected: CanaryAnswers, found: CanaryAnswers, where: str) -> float | None:
    """How far the server's base is from the trainer's, in nats per token; None if unknown."""
    if not _are_alike((*found.scores, *expected.scores), expected):
        return None
    noise = _measure(found, expected)
    if noise > _MOST_OF_BASE:
        raise AdapterNotApplied(
            f"{where} has another base model than the one that is trained here: its "
            f"log-probabilities of a fixed text differ by {noise:.2g} nats per token, where "
            f"rounding makes less than {_MOST_OF_BASE}; serve the same model, with the same chat "
            "template and without a quantization"
        )
    return noise


def _compare_scores(
    expected: CanaryAnswers, base: CanaryAnswers, found: CanaryAnswers, noise: float
) -> str | None:
    shift, error = _measure(expected, base), _measure(found, expected)
    # An adapter that changes less than rounding does cannot be told from the base.
    if shift < max(_TIMES_NOISE * noise, _LEAST_SHIFT) or error < shift / 2:
        return None
    as_base = _measure(found, base) < error
    return (
        f"it changes the log-probabilities of a fixed text by {shift:.2g} nats per token, and the "
        f"server's are {error:.2g} away from that"
        + (": they are those of the base" if as_base else ", nor are they those of the base")
    )


def _compare_texts(
    expected: CanaryAnswers, base: CanaryAnswers, found: CanaryAnswers, found_base: CanaryAnswers
) -> str | None:
    changed = [
        number
        for number, (own, untuned) in enumerate(zip(expected.greedy, base.greedy, strict=True))
        if own != untuned
    ]
    if not changed or any(found.greedy[n] != found_base.greedy[n] for n in changed):
        return None
    return (
        f"it changes {len(changed)} of {len(CANARIES)} fixed greedy answers, and the server gives "
        "all of them as the base does"
    )


def _measure(one: CanaryAnswers, other: CanaryAnswers) -> float:
    """The mean distance of their log-probabilities, in nats per token."""
    return fmean(
        abs(left - right)
        for mine, yours in zip(one.scores, other.scores, strict=True)
        for left, right in zip(mine.logprobs, yours.logprobs, strict=True)
    )
