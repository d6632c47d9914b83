"""LoRA of several adapters in one pass for training: each one's update on its own rows.

A layer's product with the base's weights is computed once for the rows of all adapters. Products
with factors and their gradients are computed for each adapter's rows alone, so that no adapter's
numbers depend on whose rows are beside its own. PEFT's layers keep one more copy of every layer's
output for the pass back, and take several more passes over memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear


@dataclass(frozen=True, slots=True)
class TrainedFactors:
    """One layer's factors of one adapter: y += scale * (x @ down.T) @ up.T, as PEFT has them."""

    down_r_K: nn.Parameter
    up_N_r: nn.Parameter
    scale: float
    dropout: float = 0.0


@dataclass(frozen=True, slots=True)
class TrainedSpan:
    """Rows start..stop (stop excluded) of a pass, a row for each token, are one adapter's.

    `layers` has its factors by the layers' names. `noise` draws its dropout, None for no dropout.
    """

    layers: Mapping[str, TrainedFactors]
    start: int
    stop: int
    noise: torch.Generator | None = None


class GroupedLora:
    """Lets linear layers of a base apply several adapters in training.

    The gradients of factors are added to `Parameter.grad` in the pass back: they have no nodes of
    their own in autograd's graph.

    ```python
    grouped = GroupedLora(model, ["model.layers.0.self_attn.q_proj"])
    with grouped.apply([TrainedSpan(mine, 0, 64), TrainedSpan(yours, 64, 96)]):
        states = model.base_model(tokens).last_hidden_state
    states.sum().backward()
    grouped.remove()
    ```
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = dict(model.named_modules())
        self._spans: Sequence[TrainedSpan] = ()
        self._watched: set[str] = set()
        # Autograd keeps a graph only for what needs a gradient, and the base's weights do not.
        device = next(model.parameters()).device
        self._root = torch.zeros((), device=device, requires_grad=True)

    def watch(self, names: Iterable[str]) -> None:
        """Let these layers apply adapters from now on."""
        for name in set(names) - self._watched:
            # An attribute of the module's own comes before its class's method.
            self._modules[name].forward = partial(self._forward, name, self._modules[name])
            self._watched.add(name)

    def remove(self) -> None:
        """Let all layers compute as their classes say."""
        for name in self._watched:
            del self._modules[name].forward
        self._watched.clear()

    @contextmanager
    def apply(self, spans: Sequence[TrainedSpan]) -> Iterator[None]:
        """Apply these adapters in the passes inside; all other rows stay the base's."""
        before, self._spans = self._spans, spans
        try:
            yield
        finally:
            self._spans = before

    def _forward(self, name: str, layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        found = [
            (span.start, span.stop, factors, span.noise)
            for span in self._spans
            if (factors := span.layers.get(name)) is not None
        ]
        if not found:
            return linear(x, layer.weight, layer.bias)
        y: torch.Tensor = _GroupedLinear.apply(x, self._root, layer, found)  # type: ignore[no-untyped-call]
        return y


_Rows = tuple[int, int, TrainedFactors, torch.Generator | None]


class _GroupedLinear(torch.autograd.Function):
    """A linear layer without gradients of its own, with the updates of several adapters."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, root: torch.Tensor, layer: nn.Linear, rows: Sequence[_Rows]
    ) -> torch.Tensor:
        kind = x.device.type
        mixed = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if mixed else layer.weight.dtype
        with torch.autocast(kind, enabled=False):
            x_M_K = x.reshape(-1, x.shape[-1]).to(dtype)
            weight_N_K = layer.weight.to(dtype)
            bias = None if layer.bias is None else layer.bias.to(dtype)
            y_M_N = linear(x_M_K, weight_N_K, bias)
            # Without mixed products, float32 factors stay so on half-precision weights.
            precise = dtype if mixed else rows[0][2].down_r_K.dtype
            x_M_K = x_M_K.to(precise)
            inner = []
            for start, stop, factors, noise in rows:
                x_m_K, mask_m_K = _drop(x_M_K[start:stop], factors.dropout, noise)
                h_m_r = linear(x_m_K, factors.down_r_K.to(precise))
                up_r_N = factors.up_N_r.to(precise).t()
                _add_scaled(y_M_N[start:stop], h_m_r, up_r_N, factors.scale)
                inner.append((h_m_r, mask_m_K))
        ctx.save_for_backward(x_M_K)
        ctx.weight_N_K, ctx.rows, ctx.inner = weight_N_K, rows, inner
        ctx.shape, ctx.dtype = x.shape, x.dtype
        return y_M_N.view(*x.shape[:-1], y_M_N.shape[-1])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (x_M_K,) = ctx.saved_tensors
        dy_M_N = gradients[0].reshape(-1, gradients[0].shape[-1])
        dx_M_K = dy_M_N @ ctx.weight_N_K if ctx.needs_input_grad[0] else None
        dy_M_N = dy_M_N.to(x_M_K.dtype)
        for (start, stop, factors, _), (h_m_r, mask_m_K) in zip(ctx.rows, ctx.inner, strict=True):
            x_m_K, dy_m_N = x_M_K[start:stop], dy_M_N[start:stop]
            if mask_m_K is not None:
                x_m_K = x_m_K * mask_m_K
            dh_m_r = dy_m_N @ factors.up_N_r.to(dy_m_N.dtype)
            _add_product(factors.up_N_r, dy_m_N, h_m_r, factors.scale)
            _add_product(factors.down_r_K, dh_m_r, x_m_K, factors.scale)
            if dx_M_K is None:
                continue
            down_r_K = factors.down_r_K.to(dh_m_r.dtype)
            if mask_m_K is None:
                _add_scaled(dx_M_K[start:stop], dh_m_r, down_r_K, factors.scale)
            else:
                dx_M_K[start:stop] += (dh_m_r @ down_r_K) * mask_m_K * factors.scale
        if dx_M_K is not None:
            dx_M_K = dx_M_K.view(ctx.shape).to(ctx.dtype)
        return dx_M_K, None, None, None


def _drop(
    x_m_K: torch.Tensor, share: float, noise: torch.Generator | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """x with a share of its numbers dropped, and what it was multiplied by; see `nn.Dropout`."""
    if noise is None or not share:
        return x_m_K, None
    # The same numbers of the same generator as torch draws on the CPU.
    mask_m_K = torch.empty_like(x_m_K).bernoulli_(1 - share, generator=noise).div_(1 - share)
    return x_m_K * mask_m_K, mask_m_K


def _add_product(
    weight: nn.Parameter, left_m_P: torch.Tensor, right_m_Q: torch.Tensor, scale: float
) -> None:
    """Add scale * left.T @ right to the gradient of a weight."""
    if weight.grad is None:
        weight.grad = (left_m_P.t() @ right_m_Q).to(weight.dtype).mul_(scale)
    else:
        _add_scaled(weight.grad, left_m_P.t(), right_m_Q, scale)


def _add_scaled(
    sum_M_N: torch.Tensor, left_M_P: torch.Tensor, right_P_N: torch.Tensor, scale: float
) -> None:
    """Add scale * left @ right in place, whatever type the sum has."""
    if sum_M_N.dtype == left_M_P.dtype:
        sum_M_N.addmm_(left_M_P, right_P_N, alpha=scale)
    else:
        sum_M_N += (left_M_P @ right_P_N) * scale
