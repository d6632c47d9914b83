from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.mixture import (
    Mixture,
    bound_repeats,
    count_repeats,
    mix_conversations,
    sample_mixture,
    weigh_mixture,
)

COUNTS = st.integers(0, 60)
SOME = st.integers(1, 60)
SHARES = st.integers(0, 20).map(lambda number: number / 20)


@pytest.mark.parametrize(
    ("corrected", "kept", "w", "limit", "expected"),
    [
        (10, 100, 0.5, None, (10, 10)),
        (100, 10, 0.5, None, (10, 10)),
        (30, 100, 0.3, None, (30, 70)),
        (10, 100, 0.3, None, (10, 23)),
        (1, 1, 0.5, None, (1, 1)),
        (1, 1, 0.3, None, (0, 1)),
        (7, 9, 0.0, None, (0, 9)),
        (7, 9, 1.0, None, (7, 0)),
        (10, 100, 0.5, 11, (6, 5)),
        (10, 100, 0.5, 1000, (10, 10)),
        (0, 9, 0.5, None, (0, 9)),
        (9, 0, 0.5, 4, (4, 0)),
        (0, 0, 0.5, None, (0, 0)),
    ],
)
def test_given_mixtures(corrected, kept, w, limit, expected):
    mixture = sample_mixture(corrected, kept, w, limit)
    assert (mixture.corrected, mixture.kept) == expected


def test_an_empty_side_is_told_and_nothing_else():
    assert "only kept" in str(sample_mixture(0, 9, 0.5).note)
    assert "only kept" in str(sample_mixture(0, 9, 1.0).note)
    assert "only corrected" in str(sample_mixture(9, 0, 0.5).note)
    assert "only corrected" in str(sample_mixture(9, 0, 0.0).note)
    assert sample_mixture(0, 9, 0.0) == Mixture(0, 9)
    assert sample_mixture(9, 0, 1.0) == Mixture(9, 0)
    assert sample_mixture(9, 9, 0.3).note is None
    assert "no conversation to train on" in str(sample_mixture(0, 0, 0.5).note)


@pytest.mark.parametrize(
    ("corrected", "kept", "w", "limit", "said"),
    [
        (1, 400, 0.5, None, ("only 2 of 401", "too few corrected", "lower datasets.w")),
        (400, 1, 0.5, None, ("only 2 of 401", "too few kept", "raise datasets.w")),
        (3, 90, 0.9, None, ("only 3 of 93", "too few corrected", "lower datasets.w")),
        (300, 2, 0.0, None, ("only 2 of 302", "too few kept", "raise datasets.w")),
        (2, 300, 1.0, None, ("only 2 of 302", "too few corrected", "lower datasets.w")),
        (1, 400, 0.5, 10, ("only 2 of 401",)),
        (1, 400, 0.5, 2, ()),
        (9, 9, 0.3, None, ()),
        (200, 400, 0.5, None, ()),
        (1, 1, 0.5, None, ()),
    ],
)
def test_what_a_fraction_costs_is_said_with_the_setting_to_change(corrected, kept, w, limit, said):
    note = sample_mixture(corrected, kept, w, limit).note
    assert (note is None) == (not said)
    assert all(part in str(note) for part in said)


@given(SOME, SOME, SHARES)
def test_the_largest_sample_with_the_fraction(corrected, kept, w):
    mixture = sample_mixture(corrected, kept, w)
    share = Fraction(repr(w))
    total = mixture.corrected + mixture.kept
    assert 0 <= mixture.corrected <= corrected
    assert 0 <= mixture.kept <= kept
    assert abs(mixture.corrected - share * total) <= Fraction(1, 2)
    assert share * total <= corrected
    assert (1 - share) * total <= kept
    assert share * (total + 1) > corrected or (1 - share) * (total + 1) > kept


@given(COUNTS, COUNTS, SHARES, st.integers(1, 50))
def test_a_limit_keeps_the_fraction(corrected, kept, w, limit):
    free, capped = sample_mixture(corrected, kept, w), sample_mixture(corrected, kept, w, limit)
    total = capped.corrected + capped.kept
    assert total == min(limit, free.corrected + free.kept)
    assert capped.corrected <= corrected
    assert capped.kept <= kept


@pytest.mark.parametrize("w", [-0.1, 1.1, float("nan")])
def test_a_fraction_outside_is_refused(w):
    with pytest.raises(ValueError, match=r"0\.\.1"):
        sample_mixture(1, 1, w)


def test_a_limit_below_one_is_refused():
    with pytest.raises(ValueError, match="max_examples"):
        sample_mixture(1, 1, 0.5, 0)


@given(COUNTS, COUNTS, st.none() | SHARES, st.none() | st.integers(1, 50))
def test_weights_reach_the_share_with_every_row(corrected, kept, w, limit):
    mixture = weigh_mixture(corrected, kept, w, limit)
    total = mixture.corrected + mixture.kept
    possible = corrected + kept if limit is None else min(limit, corrected + kept)
    assert mixture.corrected <= corrected
    assert mixture.kept <= kept
    if w is None:
        assert total == possible
        assert mixture.corrected_weight == mixture.kept_weight == 1
        assert abs(mixture.corrected * (corrected + kept) - total * corrected) <= corrected + kept
        return
    # Only a side that is to count nothing is left out, unless the other is empty.
    if 0 < w < 1:
        assert total == possible
    elif corrected and kept:
        assert not (mixture.corrected if w == 0 else mixture.kept)
    whole = mixture.corrected * mixture.corrected_weight + mixture.kept * mixture.kept_weight
    assert whole == pytest.approx(total)
    if mixture.corrected and mixture.kept:
        assert mixture.corrected * mixture.corrected_weight == pytest.approx(w * total)
    else:
        assert mixture.corrected_weight == mixture.kept_weight == 1


@pytest.mark.parametrize(
    ("corrected", "kept", "w", "limit", "expected"),
    [
        (68, 1300, 0.05, None, (68, 1300)),
        (68, 1300, 0.5, 200, (68, 132)),
        (68, 1300, 0.2, 200, (40, 160)),
        (68, 1300, None, 342, (17, 325)),
        (1, 400, 0.01, 2, (1, 1)),
        (0, 9, 0.5, None, (0, 9)),
        (7, 9, 1.0, None, (7, 0)),
    ],
)
def test_which_rows_are_weighed(corrected, kept, w, limit, expected):
    mixture = weigh_mixture(corrected, kept, w, limit)
    assert (mixture.corrected, mixture.kept) == expected


def test_what_few_conversations_weigh_is_said():
    assert weigh_mixture(100, 900, 0.3).note is None
    note = str(weigh_mixture(1, 400, 0.5).note)
    assert "each of the 1 corrected conversations weighs 200, " in note
    assert "lower datasets.w" in note
    assert "raise datasets.w" in str(weigh_mixture(400, 1, 0.5).note)
    assert "only kept" in str(weigh_mixture(0, 9, 0.5).note)
    assert weigh_mixture(0, 9, None).note is None
    assert "no conversation" in str(weigh_mixture(0, 0, None).note)


def test_a_rule_without_a_share():
    assert mix_conversations(10, 90, "sample", None) == sample_mixture(10, 90, 0.5)
    assert mix_conversations(10, 90, "all", None) == Mixture(10, 90)


@given(SOME, SOME, st.none() | SHARES)
def test_repeats_stand_for_weights(corrected, kept, w):
    mixture = weigh_mixture(corrected, kept, w)
    rows = count_repeats(mixture)
    assert mixture.corrected + mixture.kept <= rows <= bound_repeats(corrected + kept, "all", w)
    assert count_repeats(sample_mixture(corrected, kept, w or 0.5)) <= corrected + kept
