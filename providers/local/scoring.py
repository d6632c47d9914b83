"""Log-probabilities of given answers, and divergences between models along them, many at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch

from providers.errors import ContextOverflow
from providers.local.adapters import round_up
from providers.local.backbone import Backbone
from providers.local.conversation import encode_example
from providers.local.plans import ScoringWay
from providers.types import Divergence, Example, Message, Score

# The most tokens of all rows of one forward pass, unless a single row has more.
_TOKENS_PER_PASS = 2048
# How many positions of two models are compared at a time: each needs a row of the whole vocabulary.
_POSITIONS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Passage:
    """An answer to be scored: `token_ids` hold prompt and answer; the answer begins at `start`."""

    adapter: str | None
    token_ids: tuple[int, ...]
    start: int


def encode_passage(
    backbone: Backbone, adapter: str | None, messages: Sequence[Message], text: str
) -> Passage:
    """`text` as it would be trained on, without its end token; raises `ContextOverflow`."""
    example = Example((*messages, Message("assistant", text)), (len(messages),))
    encoded = encode_example(backbone.tokenizer, example)
    token_ids = tuple(encoded.token_ids[:-1])
    if len(token_ids) > backbone.context:
        raise ContextOverflow(
            f"prompt and text have {len(token_ids)} tokens, the model's context "
            f"{backbone.context}; shorten them"
        )
    return Passage(adapter, token_ids, encoded.trained.index(True))


@torch.inference_mode()
def score_passages(backbone: Backbone, passages: Sequence[Passage]) -> list[Score]:
    """The scores in the order of `passages`; logits are computed for answer tokens only.

    ```python
    passage = encode_passage(backbone, None, [Message("user", "2+2?")], "4")
    [score] = score_passages(backbone, [passage])
    sum(score.logprobs)  # log-likelihood of the answer in nats
    ```
    """
    scores: dict[int, Score] = {}
    for batch in _batch_passages(passages):
        logits = compute_answer_logits(backbone, [passages[index] for index in batch])
        for index, logits_T_V in zip(batch, logits, strict=True):
            answer = passages[index].token_ids[passages[index].start :]
            answer_T = torch.tensor(answer, dtype=torch.int64, device=backbone.device)
            logprobs_T_V = logits_T_V.float().log_softmax(-1)
            chosen_T = logprobs_T_V.gather(-1, answer_T[:, None])[:, 0]
            scores[index] = Score(answer, tuple(chosen_T.tolist()))
    return [scores[index] for index in range(len(passages))]


def compute_answer_logits(backbone: Backbone, passages: Sequence[Passage]) -> list[torch.Tensor]:
    """The logits of every passage's answer tokens, shape (T, V), from as few passes as possible.

    Passages of one adapter must be neighbors.
    """
    found: list[torch.Tensor] = []
    for (way, _), group in groupby(passages, key=lambda one: _find_pass(backbone, one)):
        together = list(group)
        if way == "padded":
            found += compute_pass(backbone, together, padded=True)
        else:
            for one in together:
                found += compute_pass(backbone, [one], padded=False)
    return found


def _find_pass(backbone: Backbone, passage: Passage) -> tuple[ScoringWay, str | None]:
    """Neighbors with the same result may share a forward pass."""
    return (
        backbone.choose_scoring(passage.adapter, round_up(len(passage.token_ids))),
        backbone.adapters.find_group(passage.adapter),
    )


def compute_pass(
    backbone: Backbone, passages: Sequence[Passage], *, padded: bool
) -> list[torch.Tensor]:
    """The logits of the answers of passages of one group, from one pass."""
    # The logits at a position are those of the next token, hence the ones subtracted below.
    longest = max(len(one.token_ids) for one in passages)
    width = round_up(longest) if padded else longest
    first = min(one.start for one in passages) - 1
    ids_B_W = torch.zeros((len(passages), width), dtype=torch.int64)
    for line, one in enumerate(passages):
        ids_B_W[line, : len(one.token_ids)] = torch.tensor(one.token_ids)
    ids_B_W = ids_B_W.to(backbone.device)
    last = longest - 1
    logits_B_T_V = _compute_logits(
        backbone, [one.adapter for one in passages], ids_B_W, first, last
    )
    return [
        logits_B_T_V[line, one.start - 1 - first : len(one.token_ids) - 1 - first]
        for line, one in enumerate(passages)
    ]


def _compute_logits(
    backbone: Backbone,
    adapters: Sequence[str | None],
    ids_B_W: torch.Tensor,
    first: int,
    last: int,
) -> torch.Tensor:
    """Logits at the positions first..last-1, shape (B, last - first, V)."""
    kept = torch.arange(first, last, device=backbone.device)
    extra: dict[str, Any] = {"logits_to_keep": kept} if backbone.takes_logits_to_keep else {}
    with backbone.use_prompt_attention(), backbone.adapters.apply(adapters, len(adapters)):
        logits_B_T_V: torch.Tensor = backbone.model(
            input_ids=ids_B_W, use_cache=False, **extra
        ).logits
    return logits_B_T_V if extra else logits_B_T_V[:, first:last]


def _batch_passages(passages: Sequence[Passage]) -> Iterator[list[int]]:
    """Indices of passages to be scored together: one padded length, sorted by adapter."""

    def width(index: int) -> int:
        return round_up(len(passages[index].token_ids))

    order = sorted(range(len(passages)), key=lambda i: (width(i), passages[i].adapter or ""))
    for length, group in groupby(order, key=width):
        members = list(group)
        size = max(1, _TOKENS_PER_PASS // length)
        for begin in range(0, len(members), size):
            yield members[begin : begin + size]


@dataclass(frozen=True, slots=True)
class DivergenceQuery:
    """One answer as several models see it; the first model is compared with all the others.

    All passages have the same tokens; `backbones` are the models of the passages, in order.
    """

    passages: tuple[Passage, ...]
    backbones: tuple[Backbone, ...]

    @property
    def width(self) -> int:
        """The padded length of every passage."""
        return round_up(len(self.passages[0].token_ids))


@torch.inference_mode()
def measure_divergences(queries: Sequence[DivergenceQuery]) -> list[tuple[Divergence, ...]]:
    """For every query, D(first ‖ other) of each other model, in order."""
    found: dict[int, tuple[Divergence, ...]] = {}
    for batch in _batch_queries(queries):
        logits = _collect_logits([queries[index] for index in batch])
        for index, (p_T_V, *others) in zip(batch, logits, strict=True):
            one = queries[index].passages[0]
            answer = one.token_ids[one.start :]
            found[index] = tuple(Divergence(answer, compute_nats(p_T_V, q_T_V)) for q_T_V in others)
    return [found[index] for index in range(len(queries))]


def compute_nats(p_T_V: torch.Tensor, q_T_V: torch.Tensor) -> tuple[float, ...]:
    """D(p ‖ q) at every position, from logits."""
    nats: list[float] = []
    for begin in range(0, p_T_V.shape[0], _POSITIONS_AT_ONCE):
        p = p_T_V[begin : begin + _POSITIONS_AT_ONCE].float().log_softmax(-1)
        q = q_T_V[begin : begin + _POSITIONS_AT_ONCE].float().log_softmax(-1)
        probability = p.exp()
        # A token that p excludes adds nothing, even if q excludes it too and p - q is not a number.
        terms = torch.where(probability > 0, probability * (p - q), 0.0)
        # Rounding can leave a sum a little below zero, and a divergence is never negative.
        nats += terms.sum(-1).clamp_min(0.0).tolist()
    return tuple(nats)


def _collect_logits(queries: Sequence[DivergenceQuery]) -> list[list[torch.Tensor]]:
    """Per query and passage the logits of the answer's tokens, shape (T, V)."""
    # One pass per model, its passages sorted by adapter, whichever query they belong to.
    found: dict[tuple[int, int], torch.Tensor] = {}
    for backbone in dict.fromkeys(b for query in queries for b in query.backbones):
        places = [
            (number, line)
            for number, query in enumerate(queries)
            for line, own in enumerate(query.backbones)
            if own is backbone
        ]
        places.sort(key=lambda place: queries[place[0]].passages[place[1]].adapter or "")
        passages = [queries[number].passages[line] for number, line in places]
        found |= dict(zip(places, compute_answer_logits(backbone, passages), strict=True))
    return [
        [found[number, line] for line in range(len(query.passages))]
        for number, query in enumerate(queries)
    ]


def _batch_queries(queries: Sequence[DivergenceQuery]) -> Iterator[list[int]]:
    """Indices of queries of one padded length, as many as their tokens of all models allow."""
    batch: list[int] = []
    width = tokens = 0
    for index in sorted(range(len(queries)), key=lambda i: queries[i].width):
        one = queries[index]
        more = one.width * len(one.passages)
        if batch and (one.width != width or tokens + more > _TOKENS_PER_PASS):
            yield batch
            batch, tokens = [], 0
        batch.append(index)
        width, tokens = one.width, tokens + more
    if batch:
        yield batch
