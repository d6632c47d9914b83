"""A model that a fit is kept near to: the one it starts from, or the base.

The model's predictions are computed beside every micro-batch and never stored: for each trained
token they are a distribution over the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from providers.errors import InvalidSettings
from providers.hyperparameters import Hyperparameters
from providers.local.loss import MicroBatch, SummedLoss, evaluate, unwrap_model


class Anchor:
    """Predictions of the model to stay near to.

    `use` turns the weights that `loss` computes with into those of that model for the length of a
    `with` block.

    ```python
    anchor = Anchor(loss, model.disable_adapter)
    loss.compute_scores(batch, anchor)
    ```
    """

    def __init__(
        self, model: nn.Module, loss: SummedLoss, use: Callable[[], AbstractContextManager[Any]]
    ) -> None:
        self._model = model
        self._loss = loss
        self._use = use

    @torch.no_grad()
    def read_states(self, batch: MicroBatch) -> torch.Tensor:
        """What `read_logits` takes, of the batch's N targets."""
        with self._use(), evaluate(self._model):
            return self._loss.read_states(batch)

    @torch.no_grad()
    def read_logits(self, states_n: torch.Tensor) -> torch.Tensor:
        """The logits (n, V) of some of the states."""
        with self._use(), evaluate(self._model):
            return self._loss.read_logits(states_n)


def build_anchor(
    model: Any,
    settings: Hyperparameters,
    loss: SummedLoss,
    trainable: Mapping[str, nn.Parameter],
    base: nn.Module | None,
    *,
    bf16: bool,
) -> Anchor | None:
    """The anchor of a fit that is about to start; None if `settings` have none.

    "start" keeps a copy of the `trainable` weights as they are now. "base" is a PEFT `model`
    without its adapter, and `base` for any other model. Raises `InvalidSettings` without `base`.
    """
    if not settings.anchor:
        return None
    if settings.anchor_to == "start":
        start = {name: weight.detach().clone() for name, weight in trainable.items()}
        return Anchor(unwrap_model(model), loss, lambda: _use_weights(trainable, start))
    if hasattr(model, "disable_adapter"):
        return Anchor(unwrap_model(model), loss, model.disable_adapter)
    if base is None:
        raise InvalidSettings(
            'finetune.anchor_to = "base": the base of this full fine-tune is not at hand; set '
            'finetune.anchor_to = "start"'
        )
    device = next(base.parameters()).device
    return Anchor(base, SummedLoss(base, device, bf16=bf16), nullcontext)


@contextmanager
def _use_weights(
    trainable: Mapping[str, nn.Parameter], others: Mapping[str, torch.Tensor]
) -> Iterator[None]:
    """The parameters with other values, and afterwards with their own again."""
    own = {name: weight.data for name, weight in trainable.items()}
    try:
        for name, weight in trainable.items():
            weight.data = others[name]
        yield
    finally:
        for name, weight in trainable.items():
            weight.data = own[name]
