"""The key-value cache of the rows that are being answered together.

Every row owns one line of slots, and its token i lies in slot i whatever its neighbors are: prompts
are padded on the right, where the causal mask hides the padding. Lines are written in place, moved
when a batch is rearranged, and kept between batches, so that decoding neither concatenates nor
allocates.
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


@dataclass(frozen=True, slots=True)
class PrefillPlan:
    """Prompt `source_R[i]` of the next pass fills line `target_R[i]`."""

    source_R: torch.Tensor
    target_R: torch.Tensor


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """Row b of the next pass writes its token to slot `slot_B[b]` of line b.

    It reads the first `extent` slots of the line.
    """

    slot_B: torch.Tensor
    extent: int


def reserve_zeros(count: int, like: torch.Tensor) -> torch.Tensor:
    """`count` zeros of the type of `like` and on its device; on a CPU they take memory when used.

    A cache has a line for every row that may come and a slot for every token that may be drawn,
    and most runs use a part of them. Memory from malloc would be written to at once, and freed
    pieces of it stay with the process; pages of a mapping of its own do neither.
    """
    if like.device.type != "cpu" or not count:
        return like.new_zeros(count)
    # Shared pages, the default, would count as the machine's shared memory.
    private = (
        {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    )
    pages = mmap.mmap(-1, count * like.itemsize, **private)
    return torch.frombuffer(pages, dtype=like.dtype)


class PrefillDone(Exception):
    """Breaks a prefill off: the last layer has its keys and values, the rest is not needed."""


class SlotCache(Cache):
    """A transformers cache of `rows` lines of `slots` slots; set `plan` before every pass.

    A pass that fills prompts ends with `PrefillDone` in the last layer, which saves the rest of
    that layer.
    """

    def __init__(self, layers: int) -> None:
        self.rows = 0
        self.slots = 0
        self.plan: PrefillPlan | DecodePlan | None = None
        self._caches = [_CacheLayer(self, last=layer == layers - 1) for layer in range(layers)]
        super().__init__(layers=[*self._caches])

    def reshape(self, rows: int, slots: int, kept: int, extent: int) -> None:
        """Change the shape, keeping the first `extent` slots of the first `kept` lines."""
        for layer in self._caches:
            layer.reshape(rows, slots, kept, extent)
        self.rows, self.slots = rows, slots

    def move(self, source_R: torch.Tensor, target_R: torch.Tensor, extent: int) -> None:
        """Copy the first `extent` slots of lines `source_R` over lines `target_R`, all at once."""
        for layer in self._caches:
            for buffer in layer.buffers:
                source_R, target_R = source_R.to(buffer.device), target_R.to(buffer.device)
                buffer[target_R, :, :extent] = buffer[source_R, :, :extent]

    def release(self) -> None:
        """Free the memory."""
        for layer in self._caches:
            layer.storage, layer.buffers = [], []
        self.rows = self.slots = 0


class _CacheLayer(CacheLayerMixin):  # type: ignore[no-untyped-call, unused-ignore]
    """One layer's keys and values, each (rows, heads, slots, head size)."""

    is_sliding = False

    def __init__(self, cache: SlotCache, last: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self._cache = cache
        self._last = last
        self.storage: list[torch.Tensor] = []
        self.buffers: list[torch.Tensor] = []

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        rows, slots = self._cache.rows, self._cache.slots
        states = (key_states, value_states)
        shapes = [(rows, state.shape[1], slots, state.shape[3]) for state in states]
        self.storage = [
            reserve_zeros(math.prod(shape), state)
            for state, shape in zip(states, shapes, strict=True)
        ]
        self.buffers = [
            storage.view(shape) for storage, shape in zip(self.storage, shapes, strict=True)
        ]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.buffers:
            self.lazy_initialization(key_states, value_states)
        plan = self._cache.plan
        if isinstance(plan, PrefillPlan):
            width = key_states.shape[2]
            # A model may lie on several devices, a layer on each.
            source_R, target_R = (
                plan.source_R.to(key_states.device),
                plan.target_R.to(key_states.device),
            )
            for buffer, state in zip(self.buffers, (key_states, value_states), strict=True):
                buffer[target_R, :, :width] = state[source_R]
            if self._last:
                raise PrefillDone
            # A prompt attends to itself alone, so this pass needs no slots of the cache.
            return key_states, value_states
        assert plan is not None
        rows = len(plan.slot_B)
        slot_B = plan.slot_B.to(key_states.device)
        row_B = torch.arange(rows, device=slot_B.device)
        for buffer, state in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[row_B, :, slot_B] = state[:, :, 0]
        keys, values = self.buffers
        return keys[:rows, :, : plan.extent], values[:rows, :, : plan.extent]

    def reshape(self, rows: int, slots: int, kept: int, extent: int) -> None:
        for index, buffer in enumerate(self.buffers):
            heads, size = buffer.shape[1], buffer.shape[3]
            lines = buffer[:kept, :, :extent].clone()
            needed = rows * heads * slots * size
            if self.storage[index].numel() < needed:
                # Let go of the old buffer before the new one is made: both may not fit together.
                self.storage[index] = self.buffers[index] = lines.new_zeros(0)
                del buffer
                self.storage[index] = reserve_zeros(needed, lines)
            self.buffers[index] = self.storage[index][:needed].view(rows, heads, slots, size)
            self.buffers[index][:kept, :, :extent] = lines

    # From these transformers makes the positions and the causal mask of a prefill, as if nothing
    # were cached. A decoding pass brings its own.
    def get_seq_length(self) -> int:
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_max_length(self) -> int:
        return -1
