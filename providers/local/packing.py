"""Micro-batches of several adapters side by side in one row of tokens, without padding for it.

Linear layers see one long row. Attention is computed for each micro-batch in its own shape, by the
very call that it would get alone. So what a micro-batch gives does not depend on its neighbors, as
far as a product's rows do not, which begin at multiples of `ROW_MULTIPLE` therefore.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad

from providers.local.adapters import round_up
from providers.local.loading import silence_transformers

ATTENTION = "packed_sdpa"
"""The name under which transformers knows the attention of packed rows."""


class Packing:
    """The shapes (B, T) of micro-batches that lie one after the other in one row.

    ```python
    packing = Packing([(4, 90), (2, 70)])
    tokens_1_M, positions_1_M = packing.pack([tokens_4_90, tokens_2_70])
    ```
    """

    def __init__(self, shapes: Sequence[tuple[int, int]]) -> None:
        self.shapes = list(shapes)
        self.lengths = [rows * width for rows, width in shapes]
        self.starts: list[int] = []
        self.sizes: list[int] = []
        place = 0
        for length in self.lengths:
            self.starts.append(place)
            self.sizes.append(round_up(length))
            place += self.sizes[-1]

    def pack(self, batches: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens (1, M) of all batches (B, T), and their positions."""
        tokens, positions = [], []
        for batch_B_T, length, size in zip(batches, self.lengths, self.sizes, strict=True):
            rows, width = batch_B_T.shape
            places_T = torch.arange(width, device=batch_B_T.device)
            tokens.append(pad(batch_B_T.reshape(-1), (0, size - length)))
            positions.append(pad(places_T.repeat(rows), (0, size - length)))
        return torch.cat(tokens)[None], torch.cat(positions)[None]

    def split(self, states_1_M_D: torch.Tensor) -> list[torch.Tensor]:
        """The states (B, T, D) of each batch."""
        parts = torch.split(states_1_M_D[0], self.sizes)
        return [
            part[:length].view(*shape, -1)
            for part, length, shape in zip(parts, self.lengths, self.shapes, strict=True)
        ]


class PackedAttention:
    """Computes the attention of packed rows in a model, while `use` holds.

    Raises `ValueError` for a model whose attention cannot be exchanged.

    ```python
    attention = PackedAttention(model)
    with attention.use(packing):
        model.base_model(tokens_1_M, position_ids=positions_1_M, use_cache=False)
    attention.remove()
    ```
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._before = model.config._attn_implementation
        _register()
        with silence_transformers():
            model.set_attn_implementation(ATTENTION)
        # It only warns for models that do not choose their attention by its name.
        if model.config._attn_implementation != ATTENTION:
            raise ValueError("the model has attention of its own")

    def remove(self) -> None:
        """Give the model its own attention back."""
        self._model.set_attn_implementation(self._before)

    @contextmanager
    def use(self, packing: Packing) -> Iterator[None]:
        """Rows are packed like this in the passes inside."""
        _current.packing = packing
        try:
            yield
        finally:
            _current.packing = None


class _Current(threading.local):
    """How rows are packed in this thread: two models may be trained at a time."""

    packing: Packing | None = None


# transformers calls an attention by its name, without more than a layer and its tensors.
_current = _Current()


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, _attend)

    def make_mask(*args: Any, **kwargs: Any) -> Any:
        return None if _current.packing is not None else sdpa_mask(*args, **kwargs)

    AttentionMaskInterface.register(ATTENTION, make_mask)


def _attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    packing = _current.packing
    if packing is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    # (1, H, M, D) each, cut into the micro-batches' (B, H, T, D).
    parts = [_split_heads(states, packing) for states in (query, key, value)]
    outputs = []
    for q_B_H_T_D, k_B_H_T_D, v_B_H_T_D, length, size in zip(
        *parts, packing.lengths, packing.sizes, strict=True
    ):
        found, _ = sdpa_attention_forward(module, q_B_H_T_D, k_B_H_T_D, v_B_H_T_D, None, **kwargs)
        flat = found.reshape(length, *found.shape[2:])
        outputs.append(pad(flat, (0, 0, 0, 0, 0, size - length)) if size > length else flat)
    return torch.cat(outputs)[None], None


def _split_heads(states_1_H_M_D: torch.Tensor, packing: Packing) -> list[torch.Tensor]:
    rows_M_H_D = states_1_H_M_D[0].transpose(0, 1)
    return [
        part[:length].reshape(*shape, *part.shape[1:]).transpose(1, 2)
        for part, length, shape in zip(
            torch.split(rows_M_H_D, packing.sizes), packing.lengths, packing.shapes, strict=True
        )
    ]
