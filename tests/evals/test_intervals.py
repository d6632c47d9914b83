from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evals.intervals import (
    format_points,
    mcnemar,
    paired_p_value,
    paired_right,
    paired_shares,
    rate,
    t95,
    unpaired_p_value,
    wilson,
)


@given(st.integers(1, 2000), st.floats(0, 1))
def test_wilson_agrees_with_scipy(total: int, share: float) -> None:
    right = round(share * total)
    expected = stats.binomtest(right, total).proportion_ci(0.95, method="wilson")
    assert wilson(right / total, total) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_agrees_with_scipy(gained: int, lost: int) -> None:
    expected = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar(gained, lost) == pytest.approx(expected)


def test_rate_of_right_or_wrong_is_wilsons() -> None:
    found = rate([1.0] * 30 + [0.0] * 10)
    assert (found.value, found.total) == (0.75, 40)
    assert (found.low, found.high) == pytest.approx(wilson(0.75, 40))


def test_agents_that_always_agree_add_nothing_to_the_interval() -> None:
    together = rate([1.0] * 30 + [0.0] * 10)
    assert rate([1.0] * 30 + [0.0] * 10) == together
    spread = rate([2 / 3] * 20 + [1.0] * 10 + [2 / 3, 1 / 3] * 5)
    alone = wilson(spread.value, spread.total)
    assert alone[0] < spread.low < spread.value < spread.high < alone[1]


def test_rate_of_equal_parts_has_an_interval() -> None:
    found = rate([2 / 3] * 50)
    assert found.low < 2 / 3 < found.high


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80))
def test_paired_right_is_consistent(pairs: list[tuple[bool, bool]]) -> None:
    before, after = [a for a, _ in pairs], [b for _, b in pairs]
    change = paired_right(before, after)
    assert change.gained is not None
    assert change.lost is not None
    assert change.difference == pytest.approx((change.gained - change.lost) / len(pairs))
    assert -1 <= change.low <= change.difference + 1e-12
    assert change.difference - 1e-12 <= change.high <= 1
    turned = paired_right(after, before)
    assert (turned.low, turned.high) == pytest.approx((-change.high, -change.low))


def test_paired_interval_covers_the_truth_and_is_narrower_than_unpaired() -> None:
    draw = np.random.default_rng(1)
    cells, size, trials = [0.5, 0.08, 0.2, 0.22], 300, 400
    covered = narrower = 0
    for _ in range(trials):
        kinds = draw.choice(4, size=size, p=cells)
        before, after = np.isin(kinds, (0, 1)), np.isin(kinds, (0, 2))
        change = paired_right([bool(b) for b in before], [bool(a) for a in after])
        covered += change.low <= cells[2] - cells[1] <= change.high
        apart = 1.96 * sqrt(sum(x.mean() * (1 - x.mean()) / size for x in (before, after)))
        narrower += change.high - change.low < 2 * apart
    assert 0.92 <= covered / trials <= 0.985
    assert narrower == trials


def test_newcombes_published_example() -> None:
    """Newcombe 1998, table II, (e, f, g, h) = (36, 12, 2, 0): method 10 gives 0.0569 to 0.3404."""
    both, lost, gained = 36, 2, 12
    before = [True] * (both + lost) + [False] * gained
    after = [True] * both + [False] * lost + [True] * gained
    change = paired_right(before, after)
    assert (change.low, change.high) == pytest.approx((0.0569, 0.3404), abs=1e-4)


def test_paired_shares_agree_with_the_normal_interval() -> None:
    draw = np.random.default_rng(0)
    before, after = draw.integers(0, 4, 200) / 3, draw.integers(1, 4, 200) / 3
    change = paired_shares(list(before), list(after))
    expected = stats.norm.interval(
        0.95, loc=(after - before).mean(), scale=stats.sem(after - before)
    )
    assert (change.low, change.high) == pytest.approx(expected)
    assert change.p_value is None


@pytest.mark.parametrize("change", [0.0, 1 / 3, -1.0])
@pytest.mark.parametrize("questions", [2, 9, 300])
def test_an_interval_has_a_width_where_all_questions_change_alike(change, questions) -> None:
    before = [max(0.0, -change)] * questions
    found = paired_shares(before, [b + change for b in before])
    assert found.difference == pytest.approx(change)
    assert found.low <= found.difference <= found.high
    assert found.high - found.low > 1 / questions
    hardly = paired_shares(before, [*(b + change for b in before[1:]), before[0]])
    assert hardly.high - hardly.low > 1 / questions


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_no_paired_interval_is_of_zero_width(pairs) -> None:
    change = paired_right([a for a, _ in pairs], [b for _, b in pairs])
    assert change.high - change.low > 1 / len(pairs)
    if len(pairs) > 1:
        shares = paired_shares([float(a) for a, _ in pairs], [float(b) for _, b in pairs])
        assert shares.high - shares.low > 1 / len(pairs)


def test_answers_count_at_most_once_each() -> None:
    alike = rate([2 / 3] * 99 + [1.0], answers=300)
    assert (alike.low, alike.high) == pytest.approx(wilson(alike.value, 300))
    assert rate([2 / 3] * 50, answers=150) == rate([2 / 3] * 50, answers=150)
    assert (rate([2 / 3] * 50, answers=150).low) == pytest.approx(wilson(2 / 3, 150)[0])
    spread = rate([0.0, 1.0] * 20, answers=120)
    assert (spread.low, spread.high) == pytest.approx(wilson(0.5, 40))


@pytest.mark.parametrize(
    ("share", "told"),
    [(-0.0004, "+0.0"), (-0.0, "+0.0"), (0.0004, "+0.0"), (-0.0006, "-0.1"), (0.0456, "+4.6")],
)
def test_points_have_no_minus_where_they_round_to_zero(share, told) -> None:
    assert format_points(share) == told


@pytest.mark.parametrize("freedom", [*range(1, 32), 60, 200])
def test_students_t_agrees_with_scipy(freedom: int) -> None:
    assert t95(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=5e-4)


def test_p_values_of_large_samples_agree_with_scipy() -> None:
    draw = np.random.default_rng(2)
    before, after = draw.integers(0, 4, 3000) / 3, draw.integers(0, 4, 3000) ** 0.97 / 3
    paired = stats.ttest_rel(after, before).pvalue
    assert paired_p_value(list(before), list(after)) == pytest.approx(paired, rel=0.05)
    unpaired = stats.ttest_ind(after, before, equal_var=False).pvalue
    assert unpaired_p_value(list(before), list(after)) == pytest.approx(unpaired, rel=0.05)


def test_p_values_are_rarely_small_by_chance_in_small_samples() -> None:
    draw = np.random.default_rng(3)
    paired = unpaired = 0
    for _ in range(1000):
        before, after = (list((draw.random(12) < 0.85).astype(float)) for _ in range(2))
        paired += paired_p_value(before, after) < 0.05
        unpaired += unpaired_p_value(before, after) < 0.05
    assert paired <= 60
    assert unpaired <= 60


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one question"):
        rate([])
    with pytest.raises(ValueError, match="at least one question"):
        paired_right([], [])
    with pytest.raises(ValueError, match="at least two questions, got 1"):
        paired_shares([1.0], [1.0])
    with pytest.raises(ValueError, match="at least one degree of freedom, got 0"):
        t95(0)
    with pytest.raises(ValueError, match="longer than"):
        paired_right([True], [True, False])
