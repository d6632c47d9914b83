"""Activations that are computed again in the backward pass and not kept: time for memory.

The one place that speaks to transformers' activation checkpointing.
"""

from __future__ import annotations

import ctypes
import math
import os
from typing import Any

from transformers.modeling_layers import GradientCheckpointingLayer

# mallopt(3): which blocks have a mapping of their own, and go back to the system once freed.
_MMAP_THRESHOLD = -3
_SMALL_BYTES = 1_000_000
_USUAL_BYTES = 32 * 1024 * 1024
"""Where glibc's own threshold ends after the first large blocks were freed."""


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
        if next(self._causal.parameters()).device.type == "cpu":
            _map_blocks_above(_SMALL_BYTES if share else _USUAL_BYTES)
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


def _map_blocks_above(size: int) -> None:
    """Let blocks of more bytes than `size` go back to the system as soon as they are freed.

    glibc keeps freed blocks in its heap, where what a layer keeps for the backward pass lies
    between what it does not: long passes then hold most of what they were to compute again (2,048
    tokens of a 135M model: 4.0 GB, and 2.2 GB so). It costs about a tenth of the time, so short
    passes do without. Does nothing where there is no glibc, or where the user has set the
    threshold.
    """
    if any(name in os.environ for name in ("MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")):
        return
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if set_option is not None:
        set_option(_MMAP_THRESHOLD, size)
