"""LoRA adapters kept by name beside one base model and applied to parts of a batch.

An adapter is read from the folder that PEFT writes. In a forward pass every target layer's output
gets the low-rank update of each adapter added on that adapter's own rows, so that one pass of the
base answers for all adapters. The rows of one adapter must be neighbors: then its rows are one
slice of the activations. PEFT's own mixed batches gather and scatter rows in every layer instead.
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
# From this many rows on, a product has the same bits without the rule.
_MANY_ROWS = 64
# The row rule. A matrix kernel works on blocks of rows and treats the left-over rows in another
# order of additions, so that a row's last bits would depend on how many rows are beside it, and an
# answer on its neighbors. Every product therefore has a multiple of this many rows. With that, a
# row's result has the same bits in any batch on the CPU.
ROW_MULTIPLE = 16


@dataclass(frozen=True, slots=True)
class AdapterSpan:
    """Rows start..stop (stop excluded) of a batch belong to the adapter `name`."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Factors:
    """One layer's low-rank factors of one adapter: y += (x @ down) @ up, the scale inside `up`."""

    down_K_r: torch.Tensor
    up_r_N: torch.Tensor


class AdapterBank:
    """The adapters of one base model.

    ```python
    bank = AdapterBank(model)
    bank.load("agent1", Path("models/agent1"))
    with bank.apply([AdapterSpan("agent1", 0, 16)], rows=32):  # rows 16..32 stay the base's
        model(input_ids)
    ```
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = dict(model.named_modules())
        self._dtype: torch.dtype = getattr(model, "dtype", torch.float32)
        self._weights: dict[str, dict[str, _Factors]] = {}
        self._hooks: dict[str, Any] = {}
        self._spans: Sequence[AdapterSpan] = ()
        self._rows = 0

    @property
    def names(self) -> frozenset[str]:
        """The names the adapters were loaded under."""
        return frozenset(self._weights)

    def load(self, name: str, folder: Path) -> None:
        """Read an adapter folder.

        Raises `ModelNotFound` if there is none, and `Unsupported` if it is not plain LoRA.
        """
        if name in self._weights:
            return
        factors = dict(self._read(folder))
        for path in factors.keys() - self._hooks.keys():
            layer = self._layers[path]
            self._hooks[path] = layer.register_forward_hook(self._make_hook(path))
        self._weights[name] = factors

    def keep(self, names: frozenset[str]) -> None:
        """Forget all adapters but these."""
        for name in self.names - names:
            del self._weights[name]
        used = {path for factors in self._weights.values() for path in factors}
        for path in self._hooks.keys() - used:
            self._hooks.pop(path).remove()

    @contextmanager
    def apply(self, spans: Sequence[AdapterSpan], rows: int) -> Iterator[None]:
        """Apply adapters to these spans of a batch of `rows` rows; the other rows stay the base's.

        `rows`, or else the number of tokens of each row, is a multiple of `ROW_MULTIPLE`.
        """
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
            device, dtype = self._find_place(path)
            rank = down_r_K.shape[0]
            alpha = config.alpha_pattern.get(path, config.lora_alpha)
            scale = alpha / (rank**0.5 if config.use_rslora else rank)
            # The rank is a dimension of both products, so the row rule holds for it too.
            down_K_r = _pad_rank(down_r_K).T
            up_r_N = _pad_rank(up_N_r.T.float() * scale)
            yield (
                path,
                _Factors(
                    down_K_r.to(device, dtype).contiguous(), up_r_N.to(device, dtype).contiguous()
                ),
            )

    def _find_place(self, path: str) -> tuple[torch.device, torch.dtype]:
        """Where a layer computes, and in which number type."""
        layer = self._layers[path]
        weight = next(layer.parameters())
        # Weights that are packed into fewer bits, or wait elsewhere, say neither.
        dtype = weight.dtype if weight.dtype.is_floating_point else self._dtype
        hook = getattr(layer, "_hf_hook", None)
        device = getattr(hook, "execution_device", None)
        return torch.device(weight.device if device is None else device), dtype

    def _make_hook(self, path: str) -> Any:
        def add_updates(
            layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor
        ) -> None:
            if not self._spans:
                return
            # M counts tokens: the rows of the batch times the tokens of each.
            x_M_K = inputs[0].reshape(-1, inputs[0].shape[-1])
            y_M_N = output.view(-1, output.shape[-1])
            width = x_M_K.shape[0] // self._rows
            for span in self._spans:
                factors = self._weights[span.name].get(path)
                if factors is not None:
                    _add_update(x_M_K, y_M_N, factors, span.start * width, span.stop * width)

        return add_updates


def _add_update(
    x_M_K: torch.Tensor, y_M_N: torch.Tensor, factors: _Factors, start: int, stop: int
) -> None:
    """Add an adapter's update to rows start..stop of y, with the same bits on either path."""
    aligned = start % ROW_MULTIPLE == 0 and stop % ROW_MULTIPLE == 0
    if aligned or stop - start >= _MANY_ROWS:
        y_M_N[start:stop].addmm_(x_M_K[start:stop] @ factors.down_K_r, factors.up_r_N)
        return
    # Widen the product to whole blocks (the row rule), and add only the adapter's own rows of it.
    first = start - start % ROW_MULTIPLE
    last = stop + -stop % ROW_MULTIPLE
    update_M_N = (x_M_K[first:last] @ factors.down_K_r) @ factors.up_r_N
    y_M_N[start:stop] += update_M_N[start - first : stop - first]


def _pad_rank(factor: torch.Tensor) -> torch.Tensor:
    """A (rank, width) factor with rows of zeros up to a multiple of `ROW_MULTIPLE`."""
    return nn.functional.pad(factor, (0, 0, 0, -factor.shape[0] % ROW_MULTIPLE))


def round_up(count: int) -> int:
    """The next multiple of `ROW_MULTIPLE`: how many rows or tokens a pass has for `count`."""
    return count + -count % ROW_MULTIPLE
