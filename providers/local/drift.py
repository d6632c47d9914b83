"""How far a tuned model has moved from its base: mean KL(tuned ‖ base) along answers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from providers.local.conversation import TrainingSequence
from providers.local.loss import SummedLoss, collate_batch

_log = logging.getLogger(__name__)

# Few and short, since each costs two passes: a mean over some hundred tokens is enough to tell a
# model that has moved from one that has not.
_MOST_EXAMPLES = 32
_MOST_TARGETS = 64


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
    itself without its adapter, any other `model` with `base`.

    ```python
    measure_drift(tuned, None, sequences, torch.device("cpu"), bf16=False)  # 0.02: it has moved
    ```
    """
    is_adapted = hasattr(model, "disable_adapter")
    if not is_adapted and base is None:
        return None
    every = -(-len(sequences) // _MOST_EXAMPLES)
    try:
        tuned = SummedLoss(model, device, bf16=bf16)
        other = tuned if is_adapted else SummedLoss(base or model, device, bf16=bf16)
        total, tokens = 0.0, 0
        for sequence in sequences[::every]:
            batch = collate_batch([_cut_sequence(sequence)], device)
            p_N_V = torch.cat(list(tuned.iterate_logits(batch))).log_softmax(-1)
            bare: AbstractContextManager[object] = (
                model.disable_adapter() if is_adapted else nullcontext()
            )
            with bare:
                q_N_V = torch.cat(list(other.iterate_logits(batch))).log_softmax(-1)
            total += (p_N_V.exp() * (p_N_V - q_N_V)).sum().item()
            tokens += len(p_N_V)
        return max(0.0, total / tokens)
    except (RuntimeError, MemoryError) as error:
        # The fit is done; a measurement is no reason to lose it.
        _log.warning("the KL to the base could not be measured: %s", error)
        return None


def _cut_sequence(sequence: TrainingSequence) -> TrainingSequence:
    """The sequence up to its 64th trained token."""
    places = [place for place, trained in enumerate(sequence.trained) if trained]
    end = places[min(len(places), _MOST_TARGETS) - 1] + 1
    return TrainingSequence(sequence.token_ids[:end], sequence.trained[:end])
