"""A part of a dataset that is measured and never trained on, cut by question.

Which side a question is on depends on its id alone, so it is the same for every agent, role and
iteration: what one model is measured on, no other model of the society trains on.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from finetune.examples import StoredExamples
from store.ledger import Store
from store.records import Dataset


@dataclass(frozen=True, slots=True)
class Parts:
    """The two sides of a dataset. `sha256` stands for what is measured, in a job's digest."""

    trained: StoredExamples
    measured: StoredExamples
    sha256: str


def held_out(question_id: str, share: float) -> bool:
    """Whether a question is among the `share` (0..1) that is measured only."""
    digest = hashlib.sha256(f"validation:{question_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def split(store: Store, dataset: Dataset, share: float) -> Parts:
    """Cut `dataset`: every conversation about a held-out question is measured, the others trained.

    `share` is that of the questions, not of the rows; a small dataset may have none on one side.
    """
    if not 0 <= share < 1:
        raise ValueError(f"the validation share must lie in 0..1 (1 excluded), not {share}")

    def measured(question_id: str) -> bool:
        return held_out(question_id, share)

    def trained(question_id: str) -> bool:
        return not held_out(question_id, share)

    content = f"validation {share!r}\n{dataset.sha256}"
    return Parts(
        StoredExamples(store, dataset, trained),
        StoredExamples(store, dataset, measured),
        hashlib.sha256(content.encode()).hexdigest(),
    )
