"""LoRA adapters kept by name beside one base model and applied to parts of a batch.

An adapter is read from the folder PEFT writes. At a forward pass every target layer's output gets
the low-rank update of each adapter added on that adapter's own rows, so that one pass of the base
serves all adapters. PEFT's own mixed batches gather and scatter rows in every layer; contiguous
rows need neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from providers.errors import ModelNotFound, Unsupported

_PREFIX = "base_model.model."
_MANY_ROWS = 64
ROW_MULTIPLE = 16
"""Matrix products are only ever made of this many rows or a multiple, because their kernels treat
left-over rows differently: with it a row's result has the same bits in any company (on the CPU)."""


@dataclass(frozen=True, slots=True)
class Span:
    """Rows start..stop of a batch belong to the adapter `name`."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Factors:
    down_K_r: torch.Tensor
    up_r_N: torch.Tensor


class AdapterBank:
    """The adapters of one base model. `names` are the artifact folders they were loaded under."""

    def __init__(self, model: nn.Module) -> None:
        self._layers = dict(model.named_modules())
        self._weights: dict[str, dict[str, _Factors]] = {}
        self._hooks: dict[str, Any] = {}
        self._spans: Sequence[Span] = ()
        self._rows = 0

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._weights)

    def load(self, name: str, folder: Path) -> None:
        """Read an adapter folder; raises `ModelNotFound` or, for what is not plain LoRA,
        `Unsupported`.
        """
        if name in self._weights:
            return
        factors = dict(self._read(folder))
        for path in factors.keys() - self._hooks.keys():
            layer = self._layers[path]
            self._hooks[path] = layer.register_forward_hook(self._hook(path))
        self._weights[name] = factors

    def keep(self, names: frozenset[str]) -> None:
        """Forget all adapters but these."""
        for name in self.names - names:
            del self._weights[name]
        used = {path for factors in self._weights.values() for path in factors}
        for path in self._hooks.keys() - used:
            self._hooks.pop(path).remove()

    @contextmanager
    def applied(self, spans: Sequence[Span], rows: int) -> Iterator[None]:
        """Apply adapters to these spans of a batch of `rows` rows, a multiple of `ROW_MULTIPLE`
        unless each row has such a number of tokens. Rows in no span stay the base's."""
        self._spans, self._rows = spans, rows
        try:
            yield
        finally:
            self._spans = ()

    def _read(self, folder: Path) -> Iterator[tuple[str, _Factors]]:
        from peft import PeftConfig, PeftType
        from peft.utils import load_peft_weights

        if not (folder / "adapter_config.json").is_file():
            raise ModelNotFound(f"there is no adapter in {str(folder)!r}; was it moved or deleted?")
        config: Any = PeftConfig.from_pretrained(str(folder))
        if config.peft_type != PeftType.LORA or config.use_dora or config.modules_to_save:
            raise Unsupported(
                f"the adapter in {str(folder)!r} is not plain LoRA (type {config.peft_type}, DoRA "
                f"{config.use_dora}, modules_to_save {config.modules_to_save}); "
                f"merge it into a model folder"
            )
        tensors: dict[str, torch.Tensor] = load_peft_weights(str(folder), device="cpu")
        for key, down_r_K in tensors.items():
            if not key.endswith(".lora_A.weight"):
                continue
            path = key.removeprefix(_PREFIX).removesuffix(".lora_A.weight")
            up_N_r = tensors[key.replace(".lora_A.", ".lora_B.")]
            if path not in self._layers:
                raise Unsupported(
                    f"the adapter in {str(folder)!r} is for another base: no layer {path!r}"
                )
            like = next(self._layers[path].parameters())
            rank = down_r_K.shape[0]
            alpha = config.alpha_pattern.get(path, config.lora_alpha)
            scale = alpha / (rank**0.5 if config.use_rslora else rank)
            down_K_r = _padded_rank(down_r_K).T
            up_r_N = _padded_rank(up_N_r.T.float() * scale)
            yield path, _Factors(_placed(down_K_r, like), _placed(up_r_N, like))

    def _hook(self, path: str) -> Any:
        def add_updates(
            layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor
        ) -> None:
            if not self._spans:
                return
            x_M_K = inputs[0].reshape(-1, inputs[0].shape[-1])
            y_M_N = output.view(-1, output.shape[-1])
            width = x_M_K.shape[0] // self._rows
            for span in self._spans:
                factors = self._weights[span.name].get(path)
                if factors is not None:
                    _add(x_M_K, y_M_N, factors, span.start * width, span.stop * width)

        return add_updates


def _add(
    x_M_K: torch.Tensor, y_M_N: torch.Tensor, factors: _Factors, start: int, stop: int
) -> None:
    """Add an adapter's update to rows start..stop of y, with the same bits in either way."""
    aligned = start % ROW_MULTIPLE == 0 and stop % ROW_MULTIPLE == 0
    if aligned or stop - start >= _MANY_ROWS:
        y_M_N[start:stop].addmm_(x_M_K[start:stop] @ factors.down_K_r, factors.up_r_N)
        return
    first = start - start % ROW_MULTIPLE
    last = stop + -stop % ROW_MULTIPLE
    update_M_N = (x_M_K[first:last] @ factors.down_K_r) @ factors.up_r_N
    y_M_N[start:stop] += update_M_N[start - first : stop - first]


def _placed(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return tensor.to(like.device, like.dtype).contiguous()


def _padded_rank(factor: torch.Tensor) -> torch.Tensor:
    """A (rank, width) factor with rows of zeros up to a multiple of `ROW_MULTIPLE`."""
    return nn.functional.pad(factor, (0, 0, 0, -factor.shape[0] % ROW_MULTIPLE))
