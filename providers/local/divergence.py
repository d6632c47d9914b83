"""Kullback-Leibler divergences between models of one base along given answers, many at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from providers.local.backbone import Backbone
from providers.local.score import TOKENS, Passage, answer_logits, padded
from providers.types import Divergence

_POSITIONS = 256
"""Distributions over the vocabulary that are compared at a time, so that memory is bounded."""


@dataclass(frozen=True, slots=True)
class Contrast:
    """One answer as several models see it, the first of which is compared with all the others.

    The passages have the same tokens, `backbones` are those of their models.
    """

    passages: tuple[Passage, ...]
    backbones: tuple[Backbone, ...]

    @property
    def width(self) -> int:
        return padded(len(self.passages[0].token_ids))


@torch.inference_mode()
def divergences(contrasts: Sequence[Contrast]) -> list[tuple[Divergence, ...]]:
    """For every contrast D(first ‖ other) of each other model, in order."""
    found: dict[int, tuple[Divergence, ...]] = {}
    for batch in _batches(contrasts):
        logits = _logits([contrasts[index] for index in batch])
        for index, (p_T_V, *others) in zip(batch, logits, strict=True):
            one = contrasts[index].passages[0]
            answer = one.token_ids[one.start :]
            found[index] = tuple(Divergence(answer, _nats(p_T_V, q_T_V)) for q_T_V in others)
    return [found[index] for index in range(len(contrasts))]


def _nats(p_T_V: torch.Tensor, q_T_V: torch.Tensor) -> tuple[float, ...]:
    """D(p ‖ q) at every position, from logits."""
    nats: list[float] = []
    for begin in range(0, p_T_V.shape[0], _POSITIONS):
        p = p_T_V[begin : begin + _POSITIONS].float().log_softmax(-1)
        q = q_T_V[begin : begin + _POSITIONS].float().log_softmax(-1)
        share = p.exp()
        # Where p is zero the term is zero, also where q is.
        terms = torch.where(share > 0, share * (p - q), 0.0)
        # Rounding can leave a sum a little below zero, which no divergence is.
        nats += terms.sum(-1).clamp_min(0.0).tolist()
    return tuple(nats)


def _logits(contrasts: Sequence[Contrast]) -> list[list[torch.Tensor]]:
    """Per contrast and passage the logits of the answer's tokens, shape (T, V)."""
    found: dict[tuple[int, int], torch.Tensor] = {}
    for backbone in dict.fromkeys(b for contrast in contrasts for b in contrast.backbones):
        places = [
            (number, line)
            for number, contrast in enumerate(contrasts)
            for line, own in enumerate(contrast.backbones)
            if own is backbone
        ]
        places.sort(key=lambda place: contrasts[place[0]].passages[place[1]].adapter or "")
        passages = [contrasts[number].passages[line] for number, line in places]
        found |= dict(zip(places, answer_logits(backbone, passages), strict=True))
    return [
        [found[number, line] for line in range(len(contrast.passages))]
        for number, contrast in enumerate(contrasts)
    ]


def _batches(contrasts: Sequence[Contrast]) -> Iterator[list[int]]:
    """Indices of contrasts of one padded length whose tokens, of all models, are in budget."""
    batch: list[int] = []
    width = tokens = 0
    for index in sorted(range(len(contrasts)), key=lambda i: contrasts[i].width):
        one = contrasts[index]
        more = one.width * len(one.passages)
        if batch and (one.width != width or tokens + more > TOKENS):
            yield batch
            batch, tokens = [], 0
        batch.append(index)
        width, tokens = one.width, tokens + more
    if batch:
        yield batch
