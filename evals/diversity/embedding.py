"""Embedding dissimilarity: the mean over pairs of agents of 1 − cosine of what they said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from evals.diversity.encoders import Vector
from evals.diversity.estimates import Pair, unordered
from evals.diversity.responses import Response


def dissimilarities(responses: Sequence[Response], vectors: Mapping[str, Vector]) -> list[Pair]:
    """1 − cos(e(y_m), e(y_n)) of every two responses to a question, from 0 (alike) to 2.

    `vectors` has that of every text; `responses` are sorted by question.
    """
    return [
        Pair(one, other, _dissimilarity(vectors[one.text].unit, vectors[other.text].unit))
        for one, other in unordered(responses)
    ]


def _dissimilarity(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    # 1 − cos = |a − b|² / 2 for unit vectors, which is exactly 0 for equal texts.
    apart = one.astype(np.float64) - other.astype(np.float64)
    return float(apart @ apart) / 2
