"""The training conversations of a stored dataset, read from the turns they refer to.

A dataset may be split by question into a part that is trained on and one that is only measured.
Which part a question is in depends on its id alone, so it is the same for every agent, role and
iteration: what one model is measured on, no other model of the society trains on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import overload

from finetune.errors import DatasetDamaged
from providers.types import Example, Message
from store.content import content_sha256
from store.ledger import Store
from store.records import Dataset

# A LEFT JOIN, so that a row whose turn is gone is found and reported, not left out.
_ROWS = """
SELECT e.question_id, e.weight, e.wanted, e.turn_id, t.messages, t.response, t.sha256
FROM (FROM dataset_examples WHERE dataset_id = ?) AS e
LEFT JOIN turns AS t USING (turn_id)
ORDER BY e.position
"""

# The prompt of a pair is that of the answer which was given to it: a generator's in round 1, a
# critic's in the last round. The other answer was given in another round, or to the same prompt.
_PAIRS = """
SELECT e.question_id, e.weight, e.wanted, e.turn_id, t.messages, t.response, t.sha256,
    e.rejected_turn_id, w.messages, w.response, w.sha256, t.round <= w.round
FROM (FROM dataset_examples WHERE dataset_id = ?) AS e
LEFT JOIN turns AS t USING (turn_id)
LEFT JOIN turns AS w ON w.turn_id = e.rejected_turn_id
ORDER BY e.position
"""
_HAS_PAIRS = """
SELECT 1 FROM dataset_examples WHERE dataset_id = ? AND rejected_turn_id IS NOT NULL LIMIT 1
"""
_QUESTIONS = "SELECT question_id FROM dataset_examples WHERE dataset_id = ?"


class StoredExamples(Sequence[Example]):
    """A dataset as a sequence of `Example`s, whose texts are read at first use.

    Iterating streams them; indexing reads all of them once and keeps them. `chosen` picks rows by
    the id of their question; None takes all. Raises `DatasetDamaged` if a turn is missing or no
    longer has the content it was stored with.

    ```python
    for example in StoredExamples(store, dataset):
        print(example.messages[-1].content)
    ```
    """

    def __init__(
        self, store: Store, dataset: Dataset, chosen: Callable[[str], bool] | None = None
    ) -> None:
        self._store = store
        self._dataset = dataset
        self._chosen = chosen

    def __len__(self) -> int:
        return self._dataset.examples if self._chosen is None else self._count

    @cached_property
    def _count(self) -> int:
        rows = self._store.rows(_QUESTIONS, [self._dataset.dataset_id])
        return sum(self._chosen is None or self._chosen(question_id) for (question_id,) in rows)

    def __iter__(self) -> Iterator[Example]:
        count, dataset_id = 0, self._dataset.dataset_id
        sql = _PAIRS if self._store.rows(_HAS_PAIRS, [dataset_id]) else _ROWS
        for question_id, weight, wanted, *turns in self._store.stream(sql, [dataset_id]):
            # Count the unchosen rows too: a row that is gone must show, whichever part it was in.
            count += 1
            if self._chosen is None or self._chosen(question_id):
                yield replace(self._build(turns), weight=float(weight), wanted=wanted)
        recorded = self._dataset.examples
        if count != recorded:
            raise DatasetDamaged(
                f"{self._dataset.dataset_id}: {count} rows stored, {recorded} recorded"
            )

    def _build(self, turns: Sequence[object]) -> Example:
        """The example of a row's turn, or of its two turns and whether the better came first."""
        messages, response = self._require_intact(*turns[:4])
        if len(turns) == 4:
            loss_on_all = self._dataset.loss_on == "all"
            return build_example(messages, response, loss_on_all=loss_on_all)
        worse_messages, rejected = self._require_intact(*turns[4:8])
        if turns[8] != (self._dataset.role == "generator"):
            messages = worse_messages
        return replace(build_example(messages, response, loss_on_all=False), rejected=rejected)

    def _require_intact(
        self, turn_id: object, messages: object, response: object, sha256: object
    ) -> tuple[str, str]:
        """Messages and response of a turn, if it is there and as it was stored."""
        if not isinstance(messages, str) or not isinstance(response, str):
            raise DatasetDamaged(f"{self._dataset.dataset_id}: turn {turn_id} is not stored")
        if content_sha256(messages, response) != sha256:
            raise DatasetDamaged(
                f"{self._dataset.dataset_id}: turn {turn_id} was changed after it was stored; "
                "restore the file from a copy"
            )
        return messages, response

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...

    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        return self._all[index]

    @cached_property
    def _all(self) -> tuple[Example, ...]:
        return tuple(self)


def build_example(messages: str, response: str, *, loss_on_all: bool) -> Example:
    """The prompt exactly as sent (JSON), followed by the response, which bears the loss.

    With `loss_on_all` every assistant message of the conversation bears it.
    """
    prompt = [Message(turn["role"], turn["content"]) for turn in json.loads(messages)]
    whole = (*prompt, Message("assistant", response))
    last = len(whole) - 1
    if not loss_on_all:
        return Example(whole, (last,))
    return Example(whole, tuple(i for i, turn in enumerate(whole) if turn.role == "assistant"))


@dataclass(frozen=True, slots=True)
class DatasetSplit:
    """The two parts of a dataset. `sha256` stands for `measured` in a job's digest."""

    trained: StoredExamples
    measured: StoredExamples
    sha256: str


def is_held_out(question_id: str, share: float) -> bool:
    """Whether a question is in the `share` (0..1) that is only measured."""
    # The first 64 bits of the hash, as a fraction of all 64-bit numbers.
    digest = hashlib.sha256(f"validation:{question_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def split_dataset(store: Store, dataset: Dataset, share: float) -> DatasetSplit:
    """Split `dataset`: conversations about a held-out question are measured, the others trained on.

    `share` is that of the questions, not of the rows. A small dataset may have no rows in one part.

    ```python
    split = split_dataset(store, dataset, share=0.1)
    len(split.trained), len(split.measured)
    ```
    """
    if not 0 <= share < 1:
        raise ValueError(f"the validation share must lie in 0..1 (1 excluded), not {share}")

    def is_measured(question_id: str) -> bool:
        return is_held_out(question_id, share)

    def is_trained(question_id: str) -> bool:
        return not is_held_out(question_id, share)

    content = f"validation {share!r}\n{dataset.sha256}"
    return DatasetSplit(
        StoredExamples(store, dataset, is_trained),
        StoredExamples(store, dataset, is_measured),
        hashlib.sha256(content.encode()).hexdigest(),
    )
