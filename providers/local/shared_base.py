"""A base that several adapters are trained on at a time, by passes with pieces of several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from providers.local.attention import may_use_sdpa
from providers.local.backbone import Backbone
from providers.local.grouped_lora import GroupedLora
from providers.local.loss import SummedLoss, evaluate
from providers.local.packing import PackedAttention, Packing
from providers.local.pieces import Piece
from providers.local.plans import attends_to_all
from providers.local.shared_adapter import CannotShare, SharedAdapter
from providers.types import Hyperparameters

# Two ways to the same states differ by less, in parts of their size.
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
_COARSE = 0.1


class SharedBase:
    """A base under several adapters. `share_base` opens and closes one.

    ```python
    with share_base(backbone) as shared:
        mine, yours = (shared.add(None, settings, seed) for seed in (1, 2))
        losses = shared.backward(pieces)
    ```
    """

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._model: Any = backbone.model
        self._grouped = GroupedLora(self._model)
        self._attention = PackedAttention(self._model)
        self._model.train()

    def add(self, start: Path | None, settings: Hyperparameters, seed: int) -> SharedAdapter:
        """One more adapter, continued from the folder `start` or fresh; see `prepare_training`."""
        try:
            with self._backbone.prepare_training(start, settings, seed) as tuned:
                return SharedAdapter(tuned, self._grouped)
        finally:
            # Preparing ends with a model that answers.
            self._model.train()

    def backward(self, pieces: Sequence[Piece]) -> list[torch.Tensor]:
        """Add each piece's gradient to its adapter's, all in one pass; returns their losses.

        After an error parts of the gradients may have been added.
        """
        with pieces[0].loss.autocast():
            states = self._run_body(pieces)
            targets = [
                states_B_T_D[piece.batch.rows_N, piece.batch.columns_N]
                for piece, states_B_T_D in zip(pieces, states, strict=True)
            ]
        losses, gradients = [], []
        for piece, states_N_D in zip(pieces, targets, strict=True):
            loss, gradient_N_D = piece.loss.descend(states_N_D, piece.batch, piece.divisor)
            losses.append(loss)
            gradients.append(gradient_N_D)
        torch.autograd.backward(targets, gradients)
        return losses

    def check(self) -> None:
        """Raise `CannotShare` unless micro-batches in one row give what they give apart."""
        if reason := _find_fault(self._model):
            raise CannotShare(reason)
        device = self._backbone.device
        batches = [torch.arange(start, start + 12, device=device) for start in (2, 5)]
        tokens = [batches[0].view(2, 6), batches[1].view(1, 12)]
        packing = Packing([(2, 6), (1, 12)])
        row_1_M, positions_1_M = packing.pack(tokens)
        try:
            with torch.no_grad(), evaluate(self._model):
                apart = [self._model.base_model(batch, use_cache=False)[0] for batch in tokens]
                with self._attention.use(packing):
                    found = self._model.base_model(
                        row_1_M, position_ids=positions_1_M, use_cache=False
                    )
                together = packing.split(found[0])
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise CannotShare(f"it takes no packed rows ({error})") from error
        for one, other in zip(apart, together, strict=True):
            most = _TOLERANCE.get(one.dtype, _COARSE) * one.float().abs().max()
            if (one - other).float().abs().max() > most:
                raise CannotShare("its layers let packed rows see each other")
        if not SummedLoss(self._model, device, bf16=False).has_plain_head:
            raise CannotShare("it does more to its logits than its head does")

    def close(self) -> None:
        """Let the model compute as before."""
        self._grouped.remove()
        self._attention.remove()
        self._model.eval()

    def _run_body(self, pieces: Sequence[Piece]) -> list[torch.Tensor]:
        """The last states (B, T, D) of each piece's micro-batch."""
        batches = [piece.batch.tokens_B_T for piece in pieces]
        packing = Packing([(batch.shape[0], batch.shape[1]) for batch in batches])
        spans = []
        for piece, start, length in zip(pieces, packing.starts, packing.lengths, strict=True):
            adapter = piece.loss.model
            assert isinstance(adapter, SharedAdapter)
            spans.append(adapter.make_span(start, start + length))
        tokens_1_M, positions_1_M = packing.pack(batches)
        with self._grouped.apply(spans), self._attention.use(packing):
            found = self._model.base_model(tokens_1_M, position_ids=positions_1_M, use_cache=False)
        return packing.split(found.last_hidden_state)


@contextmanager
def share_base(backbone: Backbone) -> Iterator[SharedBase]:
    """The base of `backbone` for several adapters; raises `CannotShare` if it cannot be.

    Afterwards it is as it was.
    """
    if backbone.sharing_fault is not None:
        raise CannotShare(backbone.sharing_fault)
    # transformers refuses an attention of another name for models that do not choose theirs by it.
    try:
        shared = SharedBase(backbone)
    except (ValueError, AttributeError, RuntimeError) as error:
        backbone.sharing_fault = f"its attention cannot be exchanged ({error})"
        raise CannotShare(backbone.sharing_fault) from error
    try:
        if backbone.sharing_fault is None and not backbone.shares:
            shared.check()
            backbone.shares = True
        yield shared
    except CannotShare as fault:
        if not backbone.shares:
            backbone.sharing_fault = str(fault)
        raise
    finally:
        shared.close()


def _find_fault(model: Any) -> str | None:
    """What shows without a pass: why adapters cannot share this model, None if nothing does."""
    config = model.config.get_text_config()
    if getattr(model, "hf_quantizer", None) is not None:
        return "its weights are quantized"
    if len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1:
        return "it lies on several devices"
    if not may_use_sdpa(model, model.config) or not attends_to_all(config):
        return "its attention is not the plain one to all earlier tokens"
    for module in model.modules():
        if isinstance(module, nn.Dropout) and module.p:
            return "it has dropout of its own, which is drawn for all rows at once"
    if any(
        getattr(config, name, 0.0) for name in ("attention_dropout", "attention_probs_dropout_prob")
    ):
        return "its attention has dropout of its own, which is drawn for all rows at once"
    return None
