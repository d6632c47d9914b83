"""What a fit is given: its examples as token sequences, and how many were too long."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from providers.errors import InvalidTrainingData
from providers.local.items import TrainingItem, add_mismatched, encode_item
from providers.types import Example, FinetuneSpec


@dataclass(frozen=True)
class TrainingData:
    """What is trained on, what is only measured, and how many examples were too long."""

    items: list[TrainingItem]
    held_out: list[TrainingItem]
    left_out: int


def encode_data(
    tokenizer: Any, context: int | None, spec: FinetuneSpec, on_note: Callable[[str], None]
) -> TrainingData:
    """All examples of a job; `context` is the most tokens that the model reads, None if unknown.

    Raises `InvalidTrainingData` for the first unfit example, and if none is left to train on.
    """
    if not spec.examples:
        raise InvalidTrainingData(f"{spec.name!r} has no training examples")
    items = _encode_examples(tokenizer, context, spec, spec.examples)
    if not items:
        raise InvalidTrainingData(
            f"{spec.name!r} has nothing to train on: all {len(spec.examples)} "
            f"{_describe_left_out(spec)}; raise it"
        )
    held_out = _encode_examples(tokenizer, context, spec, spec.validation)
    if left_out := len(spec.examples) - len(items):
        on_note(f"{left_out} of {len(spec.examples)} {_describe_left_out(spec)}")
    return TrainingData(items, held_out, left_out)


def _encode_examples(
    tokenizer: Any, context: int | None, spec: FinetuneSpec, examples: Sequence[Example]
) -> list[TrainingItem]:
    """Examples as token sequences, without those that `max_example_tokens` leaves out."""
    most = spec.hyperparameters.max_example_tokens
    items = []
    for number, example in enumerate(examples):
        try:
            item = encode_item(tokenizer, example, spec.hyperparameters.objective)
        except InvalidTrainingData as error:
            raise InvalidTrainingData(f"example {number} of {spec.name!r}: {error}") from error
        tokens = max(len(sequence.token_ids) for sequence in item.sequences)
        if most is not None and tokens > most:
            continue
        # The last token is only a target, so the model does not read it.
        if context and tokens - 1 > context:
            raise InvalidTrainingData(
                f"example {number} of {spec.name!r} has {tokens} tokens, more than the model's "
                f"context of {context}; leave it out with finetune.max_example_tokens = {context}, "
                "or shorten the debate"
            )
        items.append(item)
    if spec.hyperparameters.objective == "kto":
        limits = [limit for limit in (most, context and context + 1) if limit]
        return add_mismatched(items, min(limits, default=None))
    return items


def _describe_left_out(spec: FinetuneSpec) -> str:
    most = spec.hyperparameters.max_example_tokens
    return f"examples are longer than finetune.max_example_tokens = {most} and are left out"
