"""Log-probabilities of given answers, many at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch

from providers.errors import ContextOverflow
from providers.local.adapters import ROW_MULTIPLE
from providers.local.backbone import Backbone
from providers.local.conversation import encode_example
from providers.local.rows import spans
from providers.types import Example, Message, Score

TOKENS = 2048
"""Tokens of all rows of one forward pass, at most, unless a single row has more."""


@dataclass(frozen=True, slots=True)
class Passage:
    """An answer to be scored: `token_ids` of prompt and answer, which begins at `start`."""

    adapter: str | None
    token_ids: tuple[int, ...]
    start: int


def encode_passage(
    backbone: Backbone, adapter: str | None, messages: Sequence[Message], text: str
) -> Passage:
    """`text` as it would be taught, without its end token; raises `ContextOverflow`."""
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
def score(backbone: Backbone, passages: Sequence[Passage]) -> list[Score]:
    """Scores in the order of `passages`. Output-layer work is done for answer tokens only."""
    scores: dict[int, Score] = {}
    for batch in _batches(passages):
        together = [passages[index] for index in batch]
        for index, logits_T_V in zip(batch, answer_logits(backbone, together), strict=True):
            answer = passages[index].token_ids[passages[index].start :]
            answer_T = torch.tensor(answer, dtype=torch.int64, device=backbone.device)
            logprobs_T_V = logits_T_V.float().log_softmax(-1)
            chosen_T = logprobs_T_V.gather(-1, answer_T[:, None])[:, 0]
            scores[index] = Score(answer, tuple(chosen_T.tolist()))
    return [scores[index] for index in range(len(passages))]


def answer_logits(backbone: Backbone, passages: Sequence[Passage]) -> list[torch.Tensor]:
    """The logits of every passage's answer tokens, shape (T, V), from one forward pass.

    Passages of one adapter are to be neighbours.
    """
    width = padded(max(len(one.token_ids) for one in passages))
    first = min(one.start for one in passages) - 1
    ids_B_W = torch.zeros((len(passages), width), dtype=torch.int64)
    for line, one in enumerate(passages):
        ids_B_W[line, : len(one.token_ids)] = torch.tensor(one.token_ids)
    ids_B_W = ids_B_W.to(backbone.device)
    last = max(len(one.token_ids) for one in passages) - 1
    logits_B_T_V = _logits(backbone, [one.adapter for one in passages], ids_B_W, first, last)
    return [
        logits_B_T_V[line, one.start - 1 - first : len(one.token_ids) - 1 - first]
        for line, one in enumerate(passages)
    ]


def _logits(
    backbone: Backbone,
    adapters: Sequence[str | None],
    ids_B_W: torch.Tensor,
    first: int,
    last: int,
) -> torch.Tensor:
    """Logits at the positions first..last-1, shape (B, last - first, V)."""
    kept = torch.arange(first, last, device=backbone.device)
    extra: dict[str, Any] = {"logits_to_keep": kept} if backbone.takes_logits_to_keep else {}
    with backbone.reading(), backbone.bank.applied(spans(adapters), len(adapters)):
        logits_B_T_V: torch.Tensor = backbone.model(
            input_ids=ids_B_W, use_cache=False, **extra
        ).logits
    return logits_B_T_V if extra else logits_B_T_V[:, first:last]


def _batches(passages: Sequence[Passage]) -> Iterator[list[int]]:
    """Indices of passages to be scored together: one padded length, by adapter, in budget."""

    def width(index: int) -> int:
        return padded(len(passages[index].token_ids))

    order = sorted(range(len(passages)), key=lambda i: (width(i), passages[i].adapter or ""))
    for length, group in groupby(order, key=width):
        members = list(group)
        size = max(1, TOKENS // length)
        for begin in range(0, len(members), size):
            yield members[begin : begin + size]


def padded(count: int) -> int:
    """The length a sequence of `count` tokens is scored at."""
    return count + -count % ROW_MULTIPLE
