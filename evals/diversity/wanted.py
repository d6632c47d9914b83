"""What is to be measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from store.records import DiversityMeasure

MEASURES: tuple[DiversityMeasure, ...] = get_args(DiversityMeasure)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The measures, and how they are taken.

    `encoder` names the sentence encoder (see `encoders`), `device` where it runs ("auto": CUDA
    where there is some). `questions` bounds how many questions are looked at; they are chosen by
    the hash of their ids, so they are the same for all societies. `drawn` says how sampled answers
    were drawn where that was not from the models' own distributions; None: temperature 1, top_p 1.
    """

    measures: tuple[DiversityMeasure, ...]
    encoder: str = "minilm"
    questions: int = 100
    device: str = "auto"
    drawn: str | None = None
