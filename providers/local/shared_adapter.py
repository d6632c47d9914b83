"""An adapter in training that shares its base with others: what `fit` takes for its model.

PEFT makes it as for a training by itself, with the same first numbers, and its layers are taken off
again: only the factors stay. `grouped_lora` applies them, in passes that are several adapters', or,
to measure something, in one of this adapter's alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from providers.errors import Unsupported
from providers.local.grouped_lora import GroupedLora, TrainedFactors, TrainedSpan
from providers.local.lora import read_tensors
from providers.local.lora_targets import describe_share


class CannotShare(Unsupported):
    """This model, or this adapter on it, cannot be trained in passes with others."""


class TooLargeToShare(Exception):
    """An example takes so much memory that its adapter has to be trained alone."""


class SharedAdapter(nn.Module):
    """One adapter on a base that is in training under several.

    `weights` are its trained parameters by PEFT's names, so that checkpoints are those of a
    training by itself; `tensors` the same numbers by the names of an adapter's file. `share` is how
    much of the base it is put on.

    ```python
    with backbone.prepare_training(None, settings, seed) as tuned:
        adapter = SharedAdapter(tuned, grouped)
    ```
    """

    def __init__(self, tuned: Any, grouped: GroupedLora) -> None:
        super().__init__()
        (name,) = tuned.active_adapters
        self.weights = {n: w for n, w in tuned.named_parameters() if w.requires_grad}
        for weight in self.weights.values():
            weight.data = weight.data.float()
        self.tensors = read_tensors(tuned, name)
        self.lora_config = tuned.peft_config[name]
        self.share = describe_share(tuned)
        causal = tuned.get_base_model()
        self.layers = dict(_list_factors(causal, name))
        # In a list, since it is no part of this module.
        self._causal = [causal]
        self._grouped = grouped
        self._device = next(iter(self.weights.values())).device
        self._strength = 1.0
        self._noise: torch.Generator | None = None
        grouped.watch(self.layers)

    @property
    def config(self) -> Any:
        """That of the base."""
        return self._causal[0].config

    @property
    def dtype(self) -> torch.dtype:
        """That of the base's weights."""
        dtype: torch.dtype = self._causal[0].dtype
        return dtype

    def get_base_model(self) -> Any:
        """The base; PEFT's models name it so."""
        return self._causal[0]

    def named_parameters(self, *_: Any, **__: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """What is trained of it."""
        yield from self.weights.items()

    def train(self, mode: bool = True) -> SharedAdapter:
        """Nothing: the base is in train mode for all its adapters at once."""
        return self

    def seed_dropout(self, seed: int) -> AbstractContextManager[None]:
        """Draw dropout by this seed from now on, as a training by itself would on a CPU."""
        if any(factors.dropout for factors in self.layers.values()):
            self._noise = torch.Generator(self._device).manual_seed(seed)
        return nullcontext()

    def make_span(self, start: int, stop: int) -> TrainedSpan:
        """Rows start..stop of a training pass as this adapter's."""
        return TrainedSpan(self.layers, start, stop, self._noise)

    @contextmanager
    def apply_alone(self) -> Iterator[None]:
        """All rows of the passes inside are this adapter's, without dropout."""
        layers = self.layers
        if self._strength != 1.0:
            layers = {n: replace(f, scale=f.scale * self._strength) for n, f in layers.items()}
        spans = [TrainedSpan(layers, 0, sys.maxsize)] if self._strength else []
        with self._grouped.apply(spans):
            yield

    def disable_adapter(self) -> AbstractContextManager[None]:
        """The base answers for it for the length of a `with` block."""
        return self.rescale(0.0)

    @contextmanager
    def rescale(self, factor: float) -> Iterator[None]:
        """It is so many times as strong inside."""
        before, self._strength = self._strength, factor
        try:
            yield
        finally:
            self._strength = before


def _list_factors(causal: nn.Module, adapter: str) -> Iterator[tuple[str, TrainedFactors]]:
    """The factors of all layers; raises `CannotShare` for a layer that does more than multiply."""
    from peft.tuners.lora import LoraLayer

    for name, module in causal.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        own = module.get_base_layer()
        # A subclass of Linear, or a packed weight, may compute anything.
        if type(own) is not nn.Linear or not own.weight.is_floating_point():
            raise CannotShare(f"{name} is a {type(own).__name__}, no plain linear layer")
        factors: Any = module
        chance = getattr(factors.lora_dropout[adapter], "p", 0.0)
        down, up = factors.lora_A[adapter].weight, factors.lora_B[adapter].weight
        yield name, TrainedFactors(down, up, factors.scaling[adapter], chance)
