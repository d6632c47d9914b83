"""From values of pairs to one number: the mean over questions of the means within a question."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby, permutations
from math import sqrt
from statistics import fmean, stdev
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from evals.diversity.encoders import Vector
from evals.diversity.responses import Response
from evals.intervals import t95

Responses = Literal["all", "agreeing"]


@dataclass(frozen=True, slots=True)
class Pair:
    """A value that `first` and `second` have between them; `second` None: `first` and the base."""

    first: Response
    second: Response | None
    value: float

    @property
    def agreeing(self) -> bool:
        return self.first.agrees and (self.second is None or self.second.agrees)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `questions` with its 95 % t interval; `value` None where there is no pair, `low`
    and `high` None with fewer than two questions."""

    value: float | None
    low: float | None
    high: float | None
    questions: int
    pairs: int


def estimate_mean(pairs: Iterable[Pair], responses: Responses) -> Estimate:
    """The mean over all pairs, or over those whose responses agree with ŷ."""
    by_question: defaultdict[str, list[float]] = defaultdict(list)
    count = 0
    for pair in pairs:
        if responses == "all" or pair.agreeing:
            by_question[pair.first.question_id].append(pair.value)
            count += 1
    # Pairs on one question share its answers, so the interval is over the questions' means.
    means = [fmean(values) for values in by_question.values()]
    if not means:
        return Estimate(None, None, None, 0, 0)
    value, low, high = fmean(means), None, None
    if len(means) > 1:
        half = t95(len(means) - 1) * stdev(means) / sqrt(len(means))
        low, high = value - half, value + half
    return Estimate(value, low, high, len(means), count)


def list_pairs(responses: Sequence[Response]) -> Iterator[tuple[Response, Response]]:
    """Every two responses to the same question, once. Responses are to be sorted by question."""
    for group in _group_by_question(responses):
        yield from combinations(group, 2)


def list_ordered_pairs(responses: Sequence[Response]) -> Iterator[tuple[Response, Response]]:
    """Every two responses to the same question, in both orders."""
    for group in _group_by_question(responses):
        yield from permutations(group, 2)


def _group_by_question(responses: Sequence[Response]) -> Iterator[list[Response]]:
    for _, group in groupby(responses, key=lambda response: response.question_id):
        yield list(group)


def measure_dissimilarities(
    responses: Sequence[Response], vectors: Mapping[str, Vector]
) -> list[Pair]:
    """1 − cos(e(y_m), e(y_n)) of every two responses to a question, from 0 (alike) to 2.

    `vectors` has that of every text; `responses` are sorted by question.
    """
    return [
        Pair(one, other, _dissimilarity(vectors[one.text].unit, vectors[other.text].unit))
        for one, other in list_pairs(responses)
    ]


def _dissimilarity(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    # 1 − cos = |a − b|² / 2 for unit vectors, which is exactly 0 for equal texts.
    apart = one.astype(np.float64) - other.astype(np.float64)
    return float(apart @ apart) / 2
