"""The pieces of an optimizer step, and the loss and gradient of each.

A step's examples are cut into micro-batches with little padding. Logits are computed only where
there is a loss.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from providers.local.conversation import TrainingSequence
from providers.local.schedule import count_epoch_steps

if TYPE_CHECKING:
    import torch

# The fixed cost of a micro-batch, as a part of the cost of a full one's tokens.
_OVERHEAD = 1 / 16


@dataclass(frozen=True)
class MicroBatch:
    """Some sequences of one step, padded on the right to their longest.

    Right padding needs no mask in a causal model: no token attends to what follows it. `rows_N` and
    `columns_N` are the positions whose next token is a target, `targets_N` are those tokens.
    """

    tokens_B_T: torch.Tensor
    rows_N: torch.Tensor
    columns_N: torch.Tensor
    targets_N: torch.Tensor


def list_step_members(examples: int, batch_size: int, seed: int, step: int) -> list[int]:
    """Indices of the examples of optimizer step `step` (from 0); each epoch is a new permutation.

    ```python
    list_step_members(examples=5, batch_size=2, seed=0, step=2)  # the last step has one example
    ```
    """
    epoch, place = divmod(step, count_epoch_steps(examples, batch_size))
    order = list(range(examples))
    random.Random(f"order {seed} {epoch}").shuffle(order)
    return order[place * batch_size : (place + 1) * batch_size]


def cut_step(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """The cheapest cut of a step into groups of similar length, as indices of `lengths`.

    A group costs its padded tokens (size x longest) and a fixed overhead. Only a group of a single
    sequence may exceed `token_budget` padded tokens. The longest come first, so that memory runs
    out at once or not at all.

    ```python
    cut_step([90, 10, 88], token_budget=200)  # [[0, 2], [1]]
    ```
    """
    # Exact by dynamic programming over the sorted lengths: costs[n] is the least cost of the first
    # n sequences, starts[n] where the last group of that cut begins.
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


def collate_batch(sequences: Sequence[TrainingSequence], device: torch.device) -> MicroBatch:
    """The sequences as tensors on `device`; the last token of each is a target, never an input."""
    import torch

    longest = max(len(sequence.token_ids) for sequence in sequences) - 1
    tokens = [
        sequence.token_ids[:-1] + [0] * (longest - len(sequence.token_ids) + 1)
        for sequence in sequences
    ]
    targets = [
        (row, column, sequence.token_ids[column + 1])
        for row, sequence in enumerate(sequences)
        for column, trained in enumerate(sequence.trained[1:])
        if trained
    ]
    rows_N, columns_N, targets_N = torch.tensor(targets).T.contiguous().to(device)
    return MicroBatch(torch.tensor(tokens).to(device), rows_N, columns_N, targets_N)


# How many logits exist at a time; with a large vocabulary they would otherwise fill the memory.
_LOGITS = {"cpu": 1 << 24, "cuda": 1 << 28}


def unwrap_model(model: nn.Module) -> Any:
    """The transformers model itself, adapters in place, without PEFT's wrapper."""
    wrapper: Any = model
    return wrapper.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def evaluate(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, and afterwards as it was."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


class SummedLoss:
    """Computes the summed cross-entropy of a model on micro-batches and accumulates its gradient.

    The transformer and its head are called separately, so that the head sees only the positions
    with a loss. Some models do more to their logits than their head does (soft caps, scales). A
    comparison of both ways on a few tokens detects them, and then the model's own forward pass is
    used.

    ```python
    loss = SummedLoss(model, torch.device("cpu"), bf16=False)
    loss.backward(collate_batch(sequences, torch.device("cpu")), divisor=targets)
    ```
    """

    def __init__(self, model: nn.Module, device: torch.device, *, bf16: bool) -> None:
        causal = unwrap_model(model)
        self._causal = causal
        self._body = causal.base_model
        self._head = causal.get_output_embeddings()
        self._device = device
        self._bf16 = bf16
        self._vocabulary = 1
        self._split = self._is_head_alone()
        # Columns are on the first device, and a model may end on another.
        self._takes_logits_to_keep = (
            "logits_to_keep" in inspect.signature(causal.forward).parameters
            and len(set((getattr(causal, "hf_device_map", None) or {}).values())) < 2
        )

    def backward(self, batch: MicroBatch, divisor: float) -> torch.Tensor:
        """Add the gradient of the loss, summed over the batch's N targets and divided by `divisor`.

        Returns that loss: a scalar in nats, detached, on the device.
        """
        if not self._split:
            with self._autocast():
                logits_N_V = self._compute_logits(batch).float()
                loss = cross_entropy(logits_N_V, batch.targets_N, reduction="sum") / divisor
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach()
        with self._autocast():
            states_B_T_D = self._run_body(batch.tokens_B_T)
            states_N_D = states_B_T_D[batch.rows_N, batch.columns_N]
        # The head runs in chunks, and its gradient gathers at this leaf, so that no chunk's logits
        # stay in memory for the pass back through the transformer.
        leaf_N_D = states_N_D.detach().requires_grad_()
        total = torch.zeros((), device=self._device)
        rows = self._head_rows
        for start in range(0, len(leaf_N_D), rows):
            with self._autocast():
                logits_n_V = self._run_head(leaf_N_D[start : start + rows]).float()
                targets_n = batch.targets_N[start : start + rows]
                loss = cross_entropy(logits_n_V, targets_n, reduction="sum") / divisor
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        states_N_D.backward(leaf_N_D.grad)  # type: ignore[no-untyped-call]
        return total

    @torch.no_grad()
    def measure(self, sequences: Sequence[TrainingSequence], token_budget: int) -> float:
        """The mean loss of all trained tokens in nats, without dropout, noise or gradient."""
        lengths = [len(sequence.token_ids) - 1 for sequence in sequences]
        total, targets = 0.0, 0
        for group in cut_step(lengths, token_budget):
            batch = collate_batch([sequences[index] for index in group], self._device)
            start = 0
            for logits_n_V in self.iterate_logits(batch):
                targets_n = batch.targets_N[start : start + len(logits_n_V)]
                total += cross_entropy(logits_n_V, targets_n, reduction="sum").item()
                start += len(logits_n_V)
            targets += len(batch.targets_N)
        return total / targets

    @torch.no_grad()
    def iterate_logits(self, batch: MicroBatch) -> Iterator[torch.Tensor]:
        """The logits of the batch's N targets in pieces of shape (n, vocabulary), as evaluated."""
        with evaluate(self._causal):
            if not self._split:
                with self._autocast():
                    logits_N_V = self._compute_logits(batch).float()
                yield logits_N_V
                return
            with self._autocast():
                states_B_T_D = self._run_body(batch.tokens_B_T)
                states_N_D = states_B_T_D[batch.rows_N, batch.columns_N]
            for start in range(0, len(states_N_D), self._head_rows):
                with self._autocast():
                    logits_n_V = self._run_head(states_N_D[start : start + self._head_rows]).float()
                yield logits_n_V

    @property
    def _head_rows(self) -> int:
        """How many positions the head takes at a time."""
        return max(1, _LOGITS.get(self._device.type, _LOGITS["cpu"]) // self._vocabulary)

    def _run_body(self, tokens_B_T: torch.Tensor) -> torch.Tensor:
        # A model may lie on several devices; the loss is computed on the first.
        states: torch.Tensor = self._body(tokens_B_T, use_cache=False).last_hidden_state
        return states.to(self._device)

    def _run_head(self, states_n_D: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._head(states_n_D)
        return logits.to(self._device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16)

    def _compute_logits(self, batch: MicroBatch) -> torch.Tensor:
        # The forward pass keeps whole columns, for all rows; `places_N` finds each target's own.
        columns_C, places_N = torch.unique(batch.columns_N, return_inverse=True)
        if not self._takes_logits_to_keep:
            logits_B_T_V = self._causal(batch.tokens_B_T, use_cache=False).logits
            return logits_B_T_V[batch.rows_N, batch.columns_N]  # type: ignore[no-any-return]
        logits_B_C_V = self._causal(
            batch.tokens_B_T, use_cache=False, logits_to_keep=columns_C
        ).logits
        return logits_B_C_V[batch.rows_N, places_N]  # type: ignore[no-any-return]

    @torch.no_grad()
    def _is_head_alone(self) -> bool:
        """Whether head(body(tokens)) is exactly what the model returns."""
        try:
            with evaluate(self._causal):
                tokens_1_4 = torch.arange(4, device=self._device)[None]
                states_1_4_D = self._run_body(tokens_1_4)
                logits_1_4_V = self._causal(tokens_1_4, use_cache=False).logits
                self._vocabulary = logits_1_4_V.shape[-1]
                return torch.equal(self._run_head(states_1_4_D), logits_1_4_V)
        except (AttributeError, RuntimeError, TypeError):
            return False
