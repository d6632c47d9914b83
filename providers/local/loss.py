"""The pieces of an optimizer step, and the loss and gradient of each.

A step's examples are cut into micro-batches with little padding. Logits are computed only where
there is a loss.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from providers.local.conversation import TrainingSequence

if TYPE_CHECKING:
    import torch

# Families that must be told in training which tokens stand for images or sounds: here none do.
_MARKED_TYPES = ("molmo2",)
# The fixed cost of a micro-batch, as a part of the cost of a full one's tokens.
_OVERHEAD = 1 / 16


@dataclass(frozen=True)
class MicroBatch:
    """Some sequences of one step, padded on the right to their longest.

    Right padding needs no mask in a causal model: no token attends to what follows it. `rows_N` and
    `columns_N` are the positions whose next token is a target, `targets_N` are those tokens, and
    `weights_N` multiply their losses; None if all are 1.
    """

    tokens_B_T: torch.Tensor
    rows_N: torch.Tensor
    columns_N: torch.Tensor
    targets_N: torch.Tensor
    weights_N: torch.Tensor | None = None

    def weigh(self, values_N: torch.Tensor) -> torch.Tensor:
        """The values of the targets, each times its weight."""
        return values_N if self.weights_N is None else values_N * self.weights_N

    def sum_rows(self, values_N: torch.Tensor) -> torch.Tensor:
        """The sum (B,) of the values of each sequence's targets."""
        sums_B = torch.zeros(len(self.tokens_B_T), device=values_N.device)
        return sums_B.index_add(0, self.rows_N, values_N)


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
    weights_N = None
    # Without weights the losses are summed as ever, to the last bit.
    if any(sequence.weight != 1.0 for sequence in sequences):
        weights = [sequence.weight for sequence in sequences]
        weights_N = torch.tensor(weights, device=device)[rows_N]
    return MicroBatch(torch.tensor(tokens).to(device), rows_N, columns_N, targets_N, weights_N)


# How many logits exist at a time; with a large vocabulary they would otherwise fill the memory.
_LOGITS = {"cpu": 1 << 22, "cuda": 1 << 28}


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


class Predictions(Protocol):
    """A model's predictions of the targets of a batch, in two steps, as `SummedLoss` makes them."""

    def read_states(self, batch: MicroBatch) -> torch.Tensor:
        """What `read_logits` takes, of the batch's N targets."""

    def read_logits(self, states_n: torch.Tensor) -> torch.Tensor:
        """The logits (n, V) of some of the states."""


class SummedLoss:
    """Computes the summed cross-entropy of a model on micro-batches and accumulates its gradient.

    The transformer and its head are called separately, so that the head sees only the positions
    with a loss. Some models do more to their logits than their head does (soft caps, scales). A
    comparison of both ways on a few tokens detects them, and then the model's own forward pass is
    used. `logits_at_once` bounds how many logits exist at a time; by default it suits the device.

    ```python
    loss = SummedLoss(model, torch.device("cpu"), bf16=False)
    loss.backward(collate_batch(sequences, torch.device("cpu")), divisor=targets)
    ```
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        *,
        bf16: bool,
        logits_at_once: int | None = None,
    ) -> None:
        causal = unwrap_model(model)
        self.model = model
        self._causal = causal
        # Only an adapter that shares its base with others in training has to be put on for a pass.
        self._apply = getattr(model, "apply_alone", nullcontext)
        self._body = causal.base_model
        self._head = causal.get_output_embeddings()
        self._device = device
        self._bf16 = bf16
        self._logits_at_once = logits_at_once or _LOGITS.get(device.type, _LOGITS["cpu"])
        self._vocabulary = 1
        self._marked = getattr(causal.config, "model_type", None) in _MARKED_TYPES
        self._split = self._is_head_alone()
        # Columns are on the first device, and a model may end on another.
        self._takes_logits_to_keep = (
            "logits_to_keep" in inspect.signature(causal.forward).parameters
            and len(set((getattr(causal, "hf_device_map", None) or {}).values())) < 2
        )

    def backward(self, batch: MicroBatch, divisor: float) -> torch.Tensor:
        """Add the gradient of the weighted loss, summed over N targets and divided by `divisor`.

        Returns that loss: a scalar in nats, detached, on the device.
        """
        if not self._split:
            with self.autocast():
                logits_N_V = self._compute_logits(batch).float()
                loss = _sum_losses(logits_N_V, batch, 0) / divisor
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach()
        with self.autocast():
            states_B_T_D = self._run_body(batch.tokens_B_T)
            states_N_D = states_B_T_D[batch.rows_N, batch.columns_N]
        total, gradient_N_D = self.descend(states_N_D, batch, divisor)
        states_N_D.backward(gradient_N_D)  # type: ignore[no-untyped-call]
        return total

    def descend(
        self, states_N_D: torch.Tensor, batch: MicroBatch, divisor: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of the targets' states, and its gradient by them.

        Only for a model whose head follows its transformer alone (`has_plain_head`).
        """
        # The head runs in chunks, and its gradient gathers at this leaf, so that no chunk's logits
        # stay in memory for the pass back through the transformer.
        leaf_N_D = states_N_D.detach().requires_grad_()
        total = torch.zeros((), device=self._device)
        rows = self._head_rows
        for start in range(0, len(leaf_N_D), rows):
            with self.autocast():
                logits_n_V = self._run_head(leaf_N_D[start : start + rows]).float()
                loss = _sum_losses(logits_n_V, batch, start) / divisor
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        assert leaf_N_D.grad is not None
        return total, leaf_N_D.grad

    @property
    def has_plain_head(self) -> bool:
        """Whether the model's logits are its head's output for the transformer's states."""
        return self._split

    @torch.no_grad()
    def measure(self, sequences: Sequence[TrainingSequence], token_budget: int) -> float:
        """The mean loss of all trained tokens in nats, without dropout, noise or gradient.

        Every token counts the same, whatever the sequences weigh.
        """
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
                with self.autocast():
                    logits_N_V = self._compute_logits(batch).float()
                yield logits_N_V
                return
            with self.autocast():
                states_B_T_D = self._run_body(batch.tokens_B_T)
                states_N_D = states_B_T_D[batch.rows_N, batch.columns_N]
            for start in range(0, len(states_N_D), self._head_rows):
                with self.autocast():
                    logits_n_V = self._run_head(states_N_D[start : start + self._head_rows]).float()
                yield logits_n_V

    def compute_scores(
        self, batch: MicroBatch, anchor: Predictions | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The log-probability of each of the batch's N targets, and KL(anchor ‖ model) there.

        Both have shape (N,), in nats, and both lead back to the weights.
        """
        anchored_N = None if anchor is None else anchor.read_states(batch)
        states_N = self.read_states(batch)

        def score(
            states_n: torch.Tensor, targets_n: torch.Tensor, anchored_n: torch.Tensor | None
        ) -> tuple[torch.Tensor, torch.Tensor | None]:
            q_n_V = self.read_logits(states_n).log_softmax(-1)
            logprobs_n = q_n_V.gather(-1, targets_n[:, None])[:, 0]
            if anchor is None or anchored_n is None:
                return logprobs_n, None
            p_n_V = anchor.read_logits(anchored_n).log_softmax(-1)
            return logprobs_n, (p_n_V.exp() * (p_n_V - q_n_V)).sum(-1)

        rows = self._head_rows
        if len(states_N) <= rows:
            return score(states_N, batch.targets_N, anchored_N)
        # Logits are computed again on the way back, so that only one piece of them exists at a
        # time.
        pieces = [
            checkpoint(
                score,
                states_N[start : start + rows],
                batch.targets_N[start : start + rows],
                None if anchored_N is None else anchored_N[start : start + rows],
                use_reentrant=False,
            )
            for start in range(0, len(states_N), rows)
        ]
        logprobs_N = torch.cat([logprobs_n for logprobs_n, _ in pieces])
        nats = [nats_n for _, nats_n in pieces if nats_n is not None]
        return logprobs_N, torch.cat(nats) if nats else None

    def evaluated(self) -> AbstractContextManager[None]:
        """The model in eval mode for the length of a `with` block."""
        return evaluate(self._causal)

    @torch.no_grad()
    def measure_logprobs(
        self, sequences: Sequence[TrainingSequence], token_budget: int
    ) -> list[float]:
        """The log-probability of all trained tokens of each sequence together, in nats."""
        lengths = [len(sequence.token_ids) - 1 for sequence in sequences]
        found = [0.0] * len(sequences)
        with evaluate(self._causal):
            for group in cut_step(lengths, token_budget):
                batch = collate_batch([sequences[index] for index in group], self._device)
                logprobs_N, _ = self.compute_scores(batch)
                for index, value in zip(group, batch.sum_rows(logprobs_N).tolist(), strict=True):
                    found[index] = value
        return found

    def read_states(self, batch: MicroBatch) -> torch.Tensor:
        """What `read_logits` takes, of the batch's N targets."""
        if not self._split:
            with self.autocast():
                return self._compute_logits(batch).float()
        with self.autocast():
            return self._run_body(batch.tokens_B_T)[batch.rows_N, batch.columns_N]

    def read_logits(self, states_n: torch.Tensor) -> torch.Tensor:
        """The logits (n, V) of some of the states."""
        if not self._split:
            return states_n
        with self.autocast():
            return self._run_head(states_n).float()

    @property
    def _head_rows(self) -> int:
        """How many positions the head takes at a time."""
        return max(1, self._logits_at_once // self._vocabulary)

    def _run_body(self, tokens_B_T: torch.Tensor) -> torch.Tensor:
        # A model may lie on several devices; the loss is computed on the first.
        with self._apply():
            out = self._body(tokens_B_T, use_cache=False, **self._mark(tokens_B_T))
        states: torch.Tensor = out.last_hidden_state
        return states.to(self._device)

    def _run_head(self, states_n_D: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._head(states_n_D)
        return logits.to(self._device)

    def _mark(self, tokens_B_T: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"mm_token_type_ids": torch.zeros_like(tokens_B_T)} if self._marked else {}

    def autocast(self) -> torch.autocast:
        """The number type of products, for the length of a `with` block."""
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16)

    def _compute_logits(self, batch: MicroBatch) -> torch.Tensor:
        # The forward pass keeps whole columns, for all rows; `places_N` finds each target's own.
        columns_C, places_N = torch.unique(batch.columns_N, return_inverse=True)
        marks = self._mark(batch.tokens_B_T)
        if not self._takes_logits_to_keep:
            logits_B_T_V = self._causal(batch.tokens_B_T, use_cache=False, **marks).logits
            return logits_B_T_V[batch.rows_N, batch.columns_N]  # type: ignore[no-any-return]
        logits_B_C_V = self._causal(
            batch.tokens_B_T, use_cache=False, logits_to_keep=columns_C, **marks
        ).logits
        return logits_B_C_V[batch.rows_N, places_N]  # type: ignore[no-any-return]

    @torch.no_grad()
    def _is_head_alone(self) -> bool:
        """Whether head(body(tokens)) is exactly what the model returns."""
        try:
            with evaluate(self._causal):
                tokens_1_4 = torch.arange(4, device=self._device)[None]
                states_1_4_D = self._run_body(tokens_1_4)
                with self._apply():
                    logits_1_4_V = self._causal(tokens_1_4, use_cache=False).logits
                self._vocabulary = logits_1_4_V.shape[-1]
                return torch.equal(self._run_head(states_1_4_D), logits_1_4_V)
        except (AttributeError, RuntimeError, TypeError):
            return False


def _sum_losses(logits_n_V: torch.Tensor, batch: MicroBatch, start: int) -> torch.Tensor:
    """The weighted cross-entropies, summed over the batch's targets from `start` on."""
    targets_n = batch.targets_N[start : start + len(logits_n_V)]
    if batch.weights_N is None:
        return cross_entropy(logits_n_V, targets_n, reduction="sum")
    losses_n = cross_entropy(logits_n_V, targets_n, reduction="none")
    return (losses_n * batch.weights_N[start : start + len(logits_n_V)]).sum()
