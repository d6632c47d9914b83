"""What one pass of the wire is given, and the loss that it returns.

A step minimizes the mean cross-entropy of its trained tokens, each times its example's weight, as
on this machine. A server that sums takes that as weights. One that divides each example's loss by
its weights, and a step's gradient by the number of examples, would let short answers count for
more; there the weights go in as the advantages of CISPO with a ratio clipped to 1, which is the
same gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tinker

from providers.errors import TrainingFailed
from providers.local.conversation import TrainingSequence

Reduction = Literal["sum", "mean"]
_CISPO: dict[str, float] = {"clip_low_threshold": 1.0, "clip_high_threshold": 1.0}


@dataclass(frozen=True)
class Pass:
    """The arguments of `forward_backward`."""

    data: list[tinker.Datum]
    loss_fn: str = "cross_entropy"
    loss_fn_config: dict[str, float] | None = None

    @property
    def arguments(self) -> tuple[Any, ...]:
        """In the order of the SDK."""
        return self.data, self.loss_fn, self.loss_fn_config


def build_pass(sequences: Sequence[TrainingSequence], reduction: Reduction) -> Pass:
    """The pass of one optimizer step.

    build_pass([TrainingSequence([5, 6, 7], [False, False, True])], "sum")
    """
    targets = sum(map(count_targets, sequences))
    if reduction == "sum":
        return Pass([_build_datum(one, one.weight / targets) for one in sequences])
    data = [_build_scaled_datum(one, targets, len(sequences)) for one in sequences]
    return Pass(data, "cispo", _CISPO)


def build_measurement(sequences: Sequence[TrainingSequence]) -> Pass:
    """A pass that only reads log-probabilities."""
    return Pass([_build_datum(one, 1.0) for one in sequences])


def compute_loss(output: Any, sequences: Sequence[TrainingSequence], *, weighted: bool) -> float:
    """The mean loss of all trained tokens, in nats, by the log-probabilities that came back.

    `weighted`: each token counts as its example weighs. Raises `TrainingFailed` for an answer in
    another form.
    """
    total, mass = 0.0, 0.0
    found = output.loss_fn_outputs
    if len(found) != len(sequences):
        raise TrainingFailed(f"the server returned {len(found)} examples for {len(sequences)}")
    for one, sequence in zip(found, sequences, strict=True):
        values = one["logprobs"].tolist() if "logprobs" in one else []
        trained = np.asarray(sequence.trained[1:], dtype=bool)
        if len(values) != len(trained):
            raise TrainingFailed(
                f"the server returned {len(values)} log-probabilities for {len(trained)} tokens; "
                "the loss cannot be told"
            )
        weight = sequence.weight if weighted else 1.0
        total -= weight * float(np.asarray(values, dtype=np.float64)[trained].sum())
        mass += weight * int(trained.sum())
    return total / mass


def count_targets(sequence: TrainingSequence) -> int:
    """How many tokens of a sequence are trained."""
    return sum(sequence.trained)


def _build_datum(sequence: TrainingSequence, weight: float) -> tinker.Datum:
    weights = np.where(np.asarray(sequence.trained[1:]), weight, 0.0).astype(np.float32)
    inputs = {"target_tokens": _read_targets(sequence), "weights": weights}
    return tinker.Datum(_read_input(sequence), loss_fn_inputs=_wrap(inputs))


def _build_scaled_datum(sequence: TrainingSequence, targets: int, examples: int) -> tinker.Datum:
    trained = np.asarray(sequence.trained[1:])
    # What the server divides by, and the share of the step's mean.
    scale = count_targets(sequence) * examples * sequence.weight / targets
    inputs = {
        "target_tokens": _read_targets(sequence),
        "weights": trained.astype(np.float32),
        "advantages": np.where(trained, scale, 0.0).astype(np.float32),
        # Those of the sampling; with the ratio clipped to 1 they do not matter.
        "logprobs": np.zeros(len(trained), dtype=np.float32),
    }
    return tinker.Datum(_read_input(sequence), loss_fn_inputs=_wrap(inputs))


def _read_input(sequence: TrainingSequence) -> tinker.ModelInput:
    return tinker.ModelInput.from_ints(sequence.token_ids[:-1])


def _read_targets(sequence: TrainingSequence) -> np.ndarray:
    return np.asarray(sequence.token_ids[1:], dtype=np.int64)


def _wrap(inputs: dict[str, np.ndarray]) -> dict[str, tinker.TensorData]:
    return {name: tinker.TensorData.from_numpy(values) for name, values in inputs.items()}
