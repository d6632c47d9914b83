"""Activations that are computed again in the backward pass and not kept: time for memory.

The one place that speaks to transformers' activation checkpointing.
"""

from __future__ import annotations

import math
from typing import Any

from transformers.modeling_layers import GradientCheckpointingLayer


class Recomputation:
    """How many layers of a model compute their activations again; none at first.

    A pass keeps what all other layers hold of its tokens, so the memory of a long pass can be that
    of a shorter one, for as much more time as it is longer: a third at most.
    """

    def __init__(self, causal: Any) -> None:
        self._causal = causal
        self._share = 0.0
        self._layers: list[GradientCheckpointingLayer] | None = None

    @property
    def is_possible(self) -> bool:
        """Whether the model can do so."""
        return bool(getattr(self._causal, "supports_gradient_checkpointing", False))

    def set_share(self, share: float) -> None:
        """Let this share of the layers compute again, from the first one, in the next passes.

        0 is none, 1 is all; a model whose layers cannot be told apart has one of the two.
        """
        if share == self._share:
            return
        self._share = share
        if share == 0:
            self._causal.activation_checkpointing_disable()
            return
        self._causal.activation_checkpointing_enable({"use_reentrant": False})
        if self._layers is None:
            self._layers = [
                each
                for each in self._causal.modules()
                if isinstance(each, GradientCheckpointingLayer)
            ]
        for layer in self._layers[math.ceil(share * len(self._layers)) :]:
            layer.gradient_checkpointing = False
