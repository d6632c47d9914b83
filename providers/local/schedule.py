"""The optimizer steps of a fit: how many, of which examples, at which rates, with what effect.

Imports no torch, so that a configuration can be judged before anything is loaded.
"""

from __future__ import annotations

import math
import random

from providers.hyperparameters import Hyperparameters

# The rates of all steps, times alpha / rank: Adam moves each number by about the rate in a step.
# Measured with alpha = 2 * rank and 6 steps: a peak of 1e-5 (a reach of 8e-5) moves nothing
# (KL 4.5e-7 nats on the built-in model; the loss of SmolLM2-135M does not fall), 1e-4 (8e-4) moves
# SmolLM2-135M (3.16 to 2.91), and 1e-3 (8e-3) the built-in model too (2.2e-3 nats).
_LEAST_REACH = 2e-4


def compute_learning_rate(hyperparameters: Hyperparameters, step: int, steps: int) -> float:
    """The rate of step `step` of `steps` (from 1): linear warm-up, then the schedule towards 0."""
    peak = hyperparameters.learning_rate
    warmup = math.ceil(hyperparameters.warmup * steps)
    if step <= warmup:
        return peak * step / warmup
    gone = (step - 1 - warmup) / max(1, steps - warmup)
    match hyperparameters.schedule:
        case "constant":
            return peak
        case "linear":
            return peak * (1 - gone)
        case "cosine":
            return peak * 0.5 * (1 + math.cos(math.pi * gone))


def count_epoch_steps(examples: int, batch_size: int) -> int:
    """How many optimizer steps an epoch has; the last may be smaller than the others."""
    return math.ceil(examples / batch_size)


def list_step_members(examples: int, batch_size: int, seed: int, step: int) -> list[int]:
    """Indices of the examples of optimizer step `step` (from 0); each epoch is a new permutation.

    ```python
    list_step_members(examples=5, batch_size=2, seed=0, step=2)  # the last step has one example
    ```
    """
    epoch, place = divmod(step, count_epoch_steps(examples, batch_size))
    order = list(range(examples))
    random.Random(f"order {seed} {epoch}").shuffle(order)
    return order[place * batch_size : (place + 1) * batch_size]


def describe_small_reach(hyperparameters: Hyperparameters, examples: int) -> str | None:
    """Why training on so many examples can hardly change what is said; None if it can.

    Only LoRA is judged: a full fine-tune moves every weight in every step.

    >>> describe_small_reach(Hyperparameters(learning_rate=1e-5, batch_size=192), 500)[:45]
    '6 optimizer steps at a learning rate of 1e-05'
    """
    if hyperparameters.method != "lora" or not examples:
        return None
    steps = hyperparameters.epochs * count_epoch_steps(examples, hyperparameters.batch_size)
    rates = (compute_learning_rate(hyperparameters, n, steps) for n in range(1, steps + 1))
    rank = hyperparameters.lora_rank
    scale = hyperparameters.lora_alpha / (rank**0.5 if hyperparameters.use_rslora else rank)
    if sum(rates) * scale >= _LEAST_REACH:
        return None
    return (
        f"{steps} optimizer steps at a learning rate of {hyperparameters.learning_rate:g} hardly "
        "move an adapter: the tuned models will answer as the base does; raise "
        "finetune.learning_rate or the epochs, or lower finetune.batch_size"
    )
