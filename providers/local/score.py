"""Log-probabilities of given answers, many at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch

from providers.base import Example, Message, Score
from providers.errors import ContextOverflow
from providers.local.adapters import ROW_MULTIPLE
from providers.local.backbone import Backbone
from providers.local.conversation import encode_example
from providers.local.rows import spans

_TOKENS = 2048


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
    return Passage(adapter, token_ids, encoded.learnt.index(True))


@torch.inference_mode()
def score(backbone: Backbone, passages: Sequence[Passage]) -> list[Score]:
    """Scores in the order of `passages`. Output-layer work is done for answer tokens only."""
    scores: dict[int, Score] = {}
    for batch in _batches(passages):
        width = _padded(max(len(passages[index].token_ids) for index in batch))
        first = min(passages[index].start for index in batch) - 1
        ids_B_W = torch.zeros((len(batch), width), dtype=torch.int64)
        for line, index in enumerate(batch):
            ids = passages[index].token_ids
            ids_B_W[line, : len(ids)] = torch.tensor(ids)
        ids_B_W = ids_B_W.to(backbone.device)
        last = max(len(passages[index].token_ids) for index in batch) - 1
        logits_B_T_V = _logits(backbone, [passages[i].adapter for i in batch], ids_B_W, first, last)
        for line, index in enumerate(batch):
            one = passages[index]
            size = len(one.token_ids) - one.start
            begin = one.start - 1 - first
            logits_T_V = logits_B_T_V[line, begin : begin + size].float()
            answer_T = ids_B_W[line, one.start : one.start + size]
            chosen_T = logits_T_V.log_softmax(-1).gather(-1, answer_T[:, None])[:, 0]
            scores[index] = Score(one.token_ids[one.start :], tuple(chosen_T.tolist()))
    return [scores[index] for index in range(len(passages))]


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
        return _padded(len(passages[index].token_ids))

    order = sorted(range(len(passages)), key=lambda i: (width(i), passages[i].adapter or ""))
    for padded, group in groupby(order, key=width):
        members = list(group)
        size = max(1, _TOKENS // padded)
        for begin in range(0, len(members), size):
            yield members[begin : begin + size]


def _padded(count: int) -> int:
    return count + -count % ROW_MULTIPLE
