"""What a fit is made of: each training example as token sequences, ready for its objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from providers.errors import InvalidTrainingData
from providers.hyperparameters import Objective
from providers.local.conversation import TrainingSequence, encode_example
from providers.types import Example, Message


@dataclass(frozen=True)
class TrainingItem:
    """One example. `answer` is the sequence that is learnt, or judged.

    `other` is the rejected answer of a pair; for an answer that is judged alone, another example's
    answer to the same prompt, which tells how far the model has moved. `wanted` is False for an
    answer to avoid. `reference` are the log-probabilities of the two sequences before training.
    """

    answer: TrainingSequence
    other: TrainingSequence | None = None
    wanted: bool = True
    reference: tuple[float, ...] = ()

    @property
    def sequences(self) -> tuple[TrainingSequence, ...]:
        """The sequences that there are."""
        return (self.answer,) if self.other is None else (self.answer, self.other)


def encode_item(tokenizer: Any, example: Example, objective: Objective) -> TrainingItem:
    """The item of an example, for "kto" still without `other`.

    Raises `InvalidTrainingData` as `encode_example` does, and for an example that has not what the
    objective learns from.
    """
    has = {"sft": example.rejected is None and example.wanted is None}
    has |= {"kto": example.wanted is not None}
    if not has.get(objective, example.rejected is not None):
        raise InvalidTrainingData(
            f"it is no example for finetune.objective = {objective!r}: rejected = "
            f"{example.rejected!r}, wanted = {example.wanted!r}"
        )
    last = len(example.messages) - 1
    if objective != "sft" and example.loss_on != (last,):
        raise InvalidTrainingData(
            f"a preference is about the last message ({last}), and the loss is on "
            f"{list(example.loss_on)}"
        )
    answer = encode_example(tokenizer, example)
    if example.rejected is None:
        return TrainingItem(answer, wanted=example.wanted is not False)
    worse = (*example.messages[:-1], Message("assistant", example.rejected))
    return TrainingItem(answer, encode_example(tokenizer, Example(worse, (last,))))


def add_mismatched(items: Sequence[TrainingItem], most: int | None) -> list[TrainingItem]:
    """Judged answers, each with the answer of the item before it as `other`.

    How likely such answers become is the estimate of the distance from the reference that
    arXiv 2402.01306 uses: no example's own answer is part of it. `most` is the most tokens that
    fit.
    """
    made = []
    for item, before in zip(items, [*items[-1:], *items[:-1]], strict=True):
        prompt = item.answer.trained.index(True)
        tokens = before.answer.token_ids[before.answer.trained.index(True) :]
        token_ids = [*item.answer.token_ids[:prompt], *tokens][:most]
        trained = [False] * prompt + [True] * (len(token_ids) - prompt)
        made.append(replace(item, other=TrainingSequence(token_ids, trained)))
    return made
