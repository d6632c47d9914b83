import numpy as np
import pytest
from scipy import stats

from evals.diversity.encoders import Vector
from evals.diversity.estimates import (
    Pair,
    estimate_mean,
    list_ordered_pairs,
    list_pairs,
    measure_dissimilarities,
)
from evals.diversity.responses import Response
from providers.types import ModelRef

BASE = ModelRef("base", "local:x")


def response(question: str, agent: int, text: str = "", agrees: bool = True) -> Response:
    return Response(question, agent, BASE, (), text, agrees)


def test_pairs_are_of_one_question() -> None:
    responses = [response(q, a) for q, a in (("q1", 1), ("q1", 2), ("q1", 3), ("q2", 1), ("q3", 2))]
    assert [(a.agent, b.agent) for a, b in list_pairs(responses)] == [(1, 2), (1, 3), (2, 3)]
    assert len(list(list_ordered_pairs(responses))) == 6


def test_a_mean_over_questions_of_means_within_a_question() -> None:
    values = {"q1": [0.1, 0.3, 0.2], "q2": [1.0], "q3": [0.6, 0.0]}
    pairs = [
        Pair(response(q, 1), response(q, 2), value)
        for q, found in values.items()
        for value in found
    ]
    found = estimate_mean(pairs, "all")
    means = [0.2, 1.0, 0.3]
    assert (found.value, found.questions, found.pairs) == (pytest.approx(0.5), 3, 6)
    expected = stats.t.interval(0.95, 2, loc=0.5, scale=stats.sem(means))
    assert (found.low, found.high) == pytest.approx(expected)


def test_agreeing_pairs_only() -> None:
    right, wrong = response("q1", 1), response("q1", 2, agrees=False)
    pairs = [Pair(right, wrong, 1.0), Pair(right, right, 0.25), Pair(wrong, None, 1.0)]
    found = estimate_mean(pairs, "agreeing")
    assert (found.value, found.low, found.questions, found.pairs) == (0.25, None, 1, 1)
    assert estimate_mean([Pair(right, None, 0.5)], "agreeing").value == 0.5
    nothing = estimate_mean(pairs[:1], "agreeing")
    assert (nothing.value, nothing.questions, nothing.pairs) == (None, 0, 0)


def test_dissimilarity_by_hand() -> None:
    """Vectors at 0, 60 and 90 degrees: 1 − cos is 0.5 between the first two, 1 between first and
    third, 1 − √3/2 between second and third."""
    angles = {"a": 0, "b": 60, "c": 90, "d": 180}
    vectors = {
        text: Vector(np.array([np.cos(np.radians(x)), np.sin(np.radians(x))], np.float32), False)
        for text, x in angles.items()
    }
    three = [response("q1", n, text) for n, text in enumerate("abc", start=1)]
    found = [pair.value for pair in measure_dissimilarities(three, vectors)]
    assert found == pytest.approx([0.5, 1.0, 1 - 3**0.5 / 2], abs=1e-6)
    same = [response("q1", 1, "b"), response("q1", 2, "b"), response("q2", 1, "a")]
    assert [pair.value for pair in measure_dissimilarities(same, vectors)] == [0.0]
    opposite = [response("q1", 1, "a"), response("q1", 2, "d")]
    assert [pair.value for pair in measure_dissimilarities(opposite, vectors)] == pytest.approx(
        [2.0]
    )
