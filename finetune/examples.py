"""The training conversations of a stored dataset, read from the turns they refer to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import overload

from finetune.errors import DatasetDamaged
from providers.base import Example, Message
from store.ledger import Store
from store.records import Dataset, content_sha256

_ROWS = """
SELECT e.turn_id, t.messages, t.response, t.sha256
FROM (SELECT turn_id, position FROM dataset_examples WHERE dataset_id = ?) AS e
LEFT JOIN turns AS t USING (turn_id)
ORDER BY e.position
"""


class StoredExamples(Sequence[Example]):
    """A dataset as a sequence of `Example`s; texts are read on first use, not before.

    Iterating streams them; indexing reads all of them once and keeps them. Raises
    `DatasetDamaged` where a turn is missing or no longer has the content it was stored with.
    """

    def __init__(self, store: Store, dataset: Dataset) -> None:
        self._store = store
        self._dataset = dataset

    def __len__(self) -> int:
        return self._dataset.examples

    def __iter__(self) -> Iterator[Example]:
        count = 0
        for turn_id, messages, response, sha256 in self._store.stream(
            _ROWS, [self._dataset.dataset_id]
        ):
            if not isinstance(messages, str) or not isinstance(response, str):
                raise DatasetDamaged(f"{self._dataset.dataset_id}: turn {turn_id} is not stored")
            if content_sha256(messages, response) != sha256:
                raise DatasetDamaged(
                    f"{self._dataset.dataset_id}: turn {turn_id} was changed after it was stored; "
                    "restore the file from a copy"
                )
            count += 1
            yield example(messages, response, learn_all=self._dataset.learn == "all")
        if count != len(self):
            raise DatasetDamaged(
                f"{self._dataset.dataset_id}: {count} rows stored, {len(self)} recorded"
            )

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...

    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        return self._all[index]

    @cached_property
    def _all(self) -> tuple[Example, ...]:
        return tuple(self)


def example(messages: str, response: str, *, learn_all: bool) -> Example:
    """The prompt exactly as sent (JSON) and the response, which is learnt.

    With `learn_all` every assistant message of the conversation bears the loss.
    """
    prompt = [Message(turn["role"], turn["content"]) for turn in json.loads(messages)]
    whole = (*prompt, Message("assistant", response))
    last = len(whole) - 1
    if not learn_all:
        return Example(whole, (last,))
    return Example(whole, tuple(i for i, turn in enumerate(whole) if turn.role == "assistant"))
