"""Loss and gradient of one micro-batch, with logits only where there is a loss."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from providers.local.microbatches import MicroBatch

# Logits that exist at one time; with a large vocabulary they would otherwise dominate memory.
_LOGITS = {"cpu": 1 << 24, "cuda": 1 << 28}


def causal_model(model: nn.Module) -> Any:
    """The transformers model itself, adapters in place, without PEFT's wrapper."""
    wrapper: Any = model
    return wrapper.get_base_model() if hasattr(model, "get_base_model") else model


class SummedLoss:
    """Computes the summed cross-entropy of a model on micro-batches and accumulates its gradient.

    Transformer and head are called apart, so that the head sees the learnt positions only. A model
    that does more to its logits than its head (soft caps, scales) is found out by comparing both
    ways on a few tokens; for such a model its own forward is used on the learnt columns.
    """

    def __init__(self, model: nn.Module, device: torch.device, *, bf16: bool) -> None:
        causal = causal_model(model)
        self._causal = causal
        self._body = causal.base_model
        self._head = causal.get_output_embeddings()
        self._device = device
        self._bf16 = bf16
        self._vocabulary = 1
        self._split = self._head_is_all_there_is()
        self._keeps = "logits_to_keep" in inspect.signature(causal.forward).parameters

    def backward(self, batch: MicroBatch, divisor: float) -> torch.Tensor:
        """Add the gradient of the loss, summed over the batch's N targets and divided by `divisor`.

        Returns that loss: a scalar in nats, detached, on the device.
        """
        if not self._split:
            with self._autocast():
                logits_N_V = self._logits(batch).float()
                loss = cross_entropy(logits_N_V, batch.targets_N, reduction="sum") / divisor
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach()
        with self._autocast():
            states_B_T_D = self._body(batch.tokens_B_T, use_cache=False).last_hidden_state
            states_N_D = states_B_T_D[batch.rows_N, batch.columns_N]
        # The head's part of the gradient gathers at a leaf, so that no logits outlive their chunk.
        leaf_N_D = states_N_D.detach().requires_grad_()
        total = torch.zeros((), device=self._device)
        rows = max(1, _LOGITS.get(self._device.type, _LOGITS["cpu"]) // self._vocabulary)
        for start in range(0, len(leaf_N_D), rows):
            with self._autocast():
                logits_n_V = self._head(leaf_N_D[start : start + rows]).float()
                targets_n = batch.targets_N[start : start + rows]
                loss = cross_entropy(logits_n_V, targets_n, reduction="sum") / divisor
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        states_N_D.backward(leaf_N_D.grad)
        return total

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16)

    def _logits(self, batch: MicroBatch) -> torch.Tensor:
        columns_C, places_N = torch.unique(batch.columns_N, return_inverse=True)
        if not self._keeps:
            logits_B_T_V = self._causal(batch.tokens_B_T, use_cache=False).logits
            return logits_B_T_V[batch.rows_N, batch.columns_N]  # type: ignore[no-any-return]
        logits_B_C_V = self._causal(
            batch.tokens_B_T, use_cache=False, logits_to_keep=columns_C
        ).logits
        return logits_B_C_V[batch.rows_N, places_N]  # type: ignore[no-any-return]

    @torch.no_grad()
    def _head_is_all_there_is(self) -> bool:
        """Whether head(body(tokens)) is exactly what the model returns."""
        training = self._causal.training
        self._causal.eval()
        try:
            tokens_1_4 = torch.arange(4, device=self._device)[None]
            states_1_4_D = self._body(tokens_1_4, use_cache=False).last_hidden_state
            logits_1_4_V = self._causal(tokens_1_4, use_cache=False).logits
            self._vocabulary = logits_1_4_V.shape[-1]
            return torch.equal(self._head(states_1_4_D), logits_1_4_V)
        except (AttributeError, RuntimeError, TypeError):
            return False
        finally:
            self._causal.train(training)
