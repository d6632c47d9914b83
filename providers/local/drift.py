"""How far a tuned model has moved from its base: mean KL(tuned ‖ base) along answers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from providers.local.conversation import TrainingSequence
from providers.local.loss import MicroBatch, SummedLoss, collate_batch, cut_step
from providers.local.scoring import compute_nats
from providers.local.shared_adapter import SharedAdapter

_log = logging.getLogger(__name__)

# Few and short, since each costs two passes: a mean over some hundred tokens is enough to tell a
# model that has moved from one that has not.
_MOST_EXAMPLES = 32
_MOST_TARGETS = 64
_PASS_TOKENS = 512
# By what an adapter is multiplied to see what rounding alone does.
_WEAK = 1e-5


@torch.no_grad()
def measure_drift(
    model: Any,
    base: nn.Module | None,
    sequences: Sequence[TrainingSequence],
    device: torch.device,
    *,
    bf16: bool,
) -> float | None:
    """Mean KL(tuned ‖ base) in nats per trained token; None if it cannot be measured.

    Over at most 32 of the sequences and 64 trained tokens of each. A PEFT model is compared with
    itself without its adapter, any other `model` with `base`. What rounding alone does in half
    precision is subtracted.

    ```python
    measure_drift(tuned, None, sequences, torch.device("cpu"), bf16=False)  # 0.02: it has moved
    ```
    """
    is_adapted = hasattr(model, "disable_adapter")
    if not is_adapted and base is None:
        return None
    from peft.helpers import rescale_adapter_scale

    every = -(-len(sequences) // _MOST_EXAMPLES)
    chosen = [_cut_sequence(sequence) for sequence in sequences[::every]]
    shared = isinstance(model, SharedAdapter)
    # A pass of its own for each would cost an adapter that shares its passes more than a step.
    lengths = [len(sequence.token_ids) - 1 for sequence in chosen]
    groups = cut_step(lengths, _PASS_TOKENS) if shared else [[n] for n in range(len(chosen))]
    try:
        tuned = SummedLoss(model, device, bf16=bf16)
        other = tuned if is_adapted else SummedLoss(base or model, device, bf16=bf16)
        total = rounding = 0.0
        for group in groups:
            batch = collate_batch([chosen[index] for index in group], device)
            bare = model.disable_adapter() if is_adapted else nullcontext()
            with bare:
                q_N_V = _compute_logits(other, batch)
            total += sum(compute_nats(_compute_logits(tuned, batch), q_N_V))
            if is_adapted and (bf16 or model.dtype != torch.float32):
                # In half precision any adapter, however weak, turns roundings about: 0.002 nats in
                # SmolLM2-135M. What a very weak one does is no distance.
                with model.rescale(_WEAK) if shared else rescale_adapter_scale(model, _WEAK):
                    rounding += sum(compute_nats(_compute_logits(tuned, batch), q_N_V))
        tokens = sum(sum(sequence.trained) for sequence in chosen)
        return max(0.0, (total - rounding) / tokens)
    except (RuntimeError, MemoryError) as error:
        # The fit is done; a measurement is no reason to lose it.
        _log.warning("the KL to the base could not be measured: %s", error)
        return None


def _compute_logits(loss: SummedLoss, batch: MicroBatch) -> torch.Tensor:
    """Of the batch's N targets, (N, V)."""
    return torch.cat(list(loss.iterate_logits(batch)))


def _cut_sequence(sequence: TrainingSequence) -> TrainingSequence:
    """The sequence up to its 64th trained token."""
    places = [place for place, trained in enumerate(sequence.trained) if trained]
    end = places[min(len(places), _MOST_TARGETS) - 1] + 1
    return TrainingSequence(sequence.token_ids[:end], sequence.trained[:end])
