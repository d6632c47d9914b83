"""Muon for the hidden matrices: momentum whose update is orthogonalised by Newton-Schulz steps.

After Keller Jordan's Muon (2024) with the step size matched to AdamW's; torch's own runs its
Newton-Schulz in bfloat16, which is very slow on a CPU without units for it.
"""

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """For 2-D parameters only."""

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.05,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            # Matrices of one shape (or its transpose) are orthogonalised together.
            alike: dict[tuple[int, int], list[torch.nn.Parameter]] = {}
            for parameter in group["params"]:
                short, long = sorted(parameter.shape)
                alike.setdefault((short, long), []).append(parameter)
            for (_, long), parameters in alike.items():
                wide = torch.stack([_wide(self._nesterov(each, group)) for each in parameters])
                for each, update in zip(parameters, _orthogonal(wide), strict=True):
                    each.mul_(1 - group["lr"] * group["weight_decay"])
                    turned = update if each.shape == update.shape else update.T
                    each.add_(turned, alpha=-0.2 * group["lr"] * long**0.5)

    def _nesterov(self, parameter: torch.nn.Parameter, group: dict[str, Any]) -> torch.Tensor:
        gradient = cast(torch.Tensor, parameter.grad)
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(gradient, 1 - group["momentum"])
        return gradient.lerp(state["momentum"], group["momentum"])


def _wide(matrix: torch.Tensor) -> torch.Tensor:
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T


def _orthogonal(matrices_NSL: torch.Tensor) -> torch.Tensor:
    a, b, c = _NEWTON_SCHULZ
    x_NSL: torch.Tensor = matrices_NSL / (matrices_NSL.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram_NSS = x_NSL @ x_NSL.mT
        x_NSL = a * x_NSL + (b * gram_NSS + c * gram_NSS @ gram_NSS) @ x_NSL
    return x_NSL
