"""Which examples meet in an optimizer step, and its cut into pieces with little padding."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf
from typing import TYPE_CHECKING

from providers.local.conversation import Encoded

if TYPE_CHECKING:
    import torch

# A micro-batch costs about as much beside its tokens as this part of a full one.
_OVERHEAD = 1 / 16


@dataclass(frozen=True)
class MicroBatch:
    """Some sequences of one step, padded on the right to their longest.

    Right padding needs no mask in a causal model: no token sees what follows it. `rows_N` and
    `columns_N` are the positions whose next token is a target, `targets_N` those tokens.
    """

    tokens_B_T: torch.Tensor
    rows_N: torch.Tensor
    columns_N: torch.Tensor
    targets_N: torch.Tensor


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Optimizer steps per epoch; the last may be smaller than the others."""
    return ceil(examples / batch_size)


def step_members(examples: int, batch_size: int, seed: int, step: int) -> list[int]:
    """Indices of the examples of optimizer step `step` (from 0): each epoch a new permutation."""
    epoch, place = divmod(step, steps_per_epoch(examples, batch_size))
    order = list(range(examples))
    random.Random(f"order {seed} {epoch}").shuffle(order)
    return order[place * batch_size : (place + 1) * batch_size]


def cut(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Indices of `lengths` in groups of similar length, the cheapest such cut.

    A group costs its padded tokens (size x longest) and a fixed overhead; none exceeds
    `token_budget` padded tokens unless it is a single sequence. Longest first, so that memory
    runs out at once or not at all. Exact by dynamic programming over the sorted lengths.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    costs = [0.0] + [inf] * len(order)
    starts = [0] * (len(order) + 1)
    for end in range(1, len(order) + 1):
        for start in range(end - 1, -1, -1):
            padded = (end - start) * lengths[order[start]]
            if padded > token_budget and end - start > 1:
                break
            cost = costs[start] + padded + _OVERHEAD * token_budget
            if cost < costs[end]:
                costs[end], starts[end] = cost, start
    groups = []
    end = len(order)
    while end:
        groups.append(order[starts[end] : end])
        end = starts[end]
    return groups[::-1]


def collate(sequences: Sequence[Encoded], device: torch.device) -> MicroBatch:
    """The sequences as tensors on `device`. The last token of each is a target, never input."""
    import torch

    longest = max(len(sequence.token_ids) for sequence in sequences) - 1
    tokens = [
        sequence.token_ids[:-1] + [0] * (longest - len(sequence.token_ids) + 1)
        for sequence in sequences
    ]
    places = [
        (row, column, sequence.token_ids[column + 1])
        for row, sequence in enumerate(sequences)
        for column, trained in enumerate(sequence.trained[1:])
        if trained
    ]
    rows_N, columns_N, targets_N = torch.tensor(places).T.contiguous().to(device)
    return MicroBatch(torch.tensor(tokens).to(device), rows_N, columns_N, targets_N)
