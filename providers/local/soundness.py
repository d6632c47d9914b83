"""Whether a fit has gone wrong: its numbers are no numbers, or it has forgotten its examples."""

from __future__ import annotations

import math

from providers.errors import TrainingFailed

SAMPLE = 8
"""How many examples show whether a fit has diverged."""

# It has if their loss ends halfway between where it began and guessing among all tokens, and has
# risen by at least so many nats per token.
_LEAST_RISE = 1.0
_REMEDY = (
    "lower the learning rate (finetune.learning_rate), or look for broken weights in the model it "
    "starts from"
)


def require_finite(name: str, step: int, loss: float, norm: float) -> None:
    """Raise `TrainingFailed` if a step's loss, nats per token, or gradient norm is no number."""
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise TrainingFailed(
            f"{name!r} diverged at step {step}: its loss is {loss:.3g} nats per token and its "
            f"gradient norm {norm:.3g}; {_REMEDY}"
        )


def require_sound(name: str, first: float, last: float, vocabulary: int) -> None:
    """Raise `TrainingFailed` if the loss of some examples, nats per token, has risen too far.

    `first` is that before the first step, `last` that after the last; `vocabulary` counts tokens.
    """
    # The loss, in nats, of a model that gives every token the same probability.
    guessing = math.log(max(2, vocabulary))
    most = max(first + _LEAST_RISE, (first + guessing) / 2)
    if not last <= most:
        raise TrainingFailed(
            f"{name!r} diverged: its loss was {first:.3g} nats per token before the first step and "
            f"is {last:.3g} after the last; {_REMEDY}"
        )
