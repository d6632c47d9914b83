"""Rates with 95 % intervals, and differences between two systems on the same questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, erfc, inf, sqrt
from statistics import fmean, variance

Z95 = 1.959963984540054
# Exact for 1 to 20 degrees of freedom, where the expansion below is not precise enough.
_T95 = (
    12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157,
    2.228139, 2.200985, 2.178813, 2.160369, 2.144787, 2.131450, 2.119905, 2.109816, 2.100922,
    2.093024, 2.085963,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of `total` questions, 0 to 1, with its 95 % interval."""

    value: float
    low: float
    high: float
    total: int


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """`after` minus `before` on the same questions, in shares of 1, with its 95 % interval.

    `gained` and `lost` count the questions that only one of the two gets right and `p_value` is
    the exact two-sided McNemar test; all three are None where a question can be right in part
    (the mean over several agents).
    """

    before: float
    after: float
    difference: float
    low: float
    high: float
    total: int
    gained: int | None = None
    lost: int | None = None
    p_value: float | None = None


def wilson(share: float, total: float) -> tuple[float, float]:
    """Wilson's 95 % score interval for a share out of `total` independent answers.

    Wilson 1927, J. Am. Stat. Assoc. 22. Raises ValueError where `total` is not positive.
    """
    if total <= 0:
        raise ValueError(f"an interval needs at least one answer, got total = {total}")
    # Wilson, not the normal interval: that one has no width at 0 and 100 % and is too narrow near
    # them.
    spread = Z95**2 / total
    centre = (share + spread / 2) / (1 + spread)
    half = Z95 * sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def rate(right: Sequence[float], answers: int | None = None) -> Rate:
    """The mean over questions of a right-or-wrong value, or of the share of agents that are right.

    Agents that answer the same question are not independent. The interval is Wilson's with the
    effective number of answers p(1-p) / variance of the mean over questions (Korn & Graubard
    1998, Survey Methodology 24), never fewer than the questions nor more than the `answers`, where
    their number is given; for plain right-or-wrong values it is Wilson's own. The view `accuracy`
    computes the same in SQL. Raises ValueError for no questions.
    """
    if not right:
        raise ValueError("a rate needs at least one question")
    share = fmean(right)
    return Rate(share, *wilson(share, _effective(right, share, answers)), len(right))


def _effective(right: Sequence[float], share: float, answers: int | None) -> float:
    """The number of independent answers that would tell as much; see `rate`."""
    questions = float(len(right))
    # Right-or-wrong values: every question is one answer, and Wilson's interval applies as it is.
    if len(right) < 2 or all(value in (0.0, 1.0) for value in right):
        return questions
    most = inf if answers is None else max(questions, float(answers))
    # The same share on every question gives no variance to divide by.
    if (spread := variance(right)) == 0:
        return questions if answers is None else most
    return min(most, max(questions, share * (1 - share) * questions / spread))


def paired_shares(before: Sequence[float], after: Sequence[float]) -> PairedDifference:
    """The difference of two means over the same questions, in the same order.

    The interval is the normal one over the questions' own differences, which keeps every question's
    agents together. Where hardly a question has changed, or all have alike, that would be far too
    narrow: it is at least as wide as that of questions that change alike, one change of +1 and one
    of -1 added (as in `paired_p_value`). Raises ValueError for unequal lengths or fewer than two
    questions.
    """
    changes = [b - a for a, b in zip(before, after, strict=True)]
    if len(changes) < 2:
        raise ValueError(f"a paired difference needs at least two questions, got {len(changes)}")
    mean = fmean(changes)
    # If all questions change alike, the variance is zero and the plain interval would have no
    # width.
    alike = [*([mean] * len(changes)), 1.0, -1.0]
    half = Z95 * max(sqrt(variance(each) / len(each)) for each in (changes, alike))
    low, high = max(-1.0, mean - half), min(1.0, mean + half)
    return PairedDifference(fmean(before), fmean(after), mean, low, high, len(changes))


def paired_right(before: Sequence[bool], after: Sequence[bool]) -> PairedDifference:
    """The difference of two accuracies on the same questions, in the same order.

    Interval: Newcombe 1998, Statistics in Medicine 17:2635, method 10 (Wilson's limits of both
    shares, joined through their correlation, which is shrunk for small tables). Test: exact
    McNemar. Raises ValueError for unequal lengths or no questions.
    """
    pairs = list(zip(before, after, strict=True))
    if not pairs:
        raise ValueError("a paired difference needs at least one question")
    gained = sum(b and not a for a, b in pairs)
    lost = sum(a and not b for a, b in pairs)
    both = sum(a and b for a, b in pairs)
    total = len(pairs)
    share_before, share_after = (both + lost) / total, (both + gained) / total
    low, high = _newcombe(both, lost, gained, total)
    return PairedDifference(
        share_before,
        share_after,
        share_after - share_before,
        low,
        high,
        total,
        gained,
        lost,
        mcnemar(gained, lost),
    )


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided p-value that `gained` and `lost` come from a fair coin. 1 for no change."""
    total = gained + lost
    # Whole numbers up to the last division, as a float would overflow for thousands of questions.
    tail = sum(comb(total, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / (1 << total))


def paired_p_value(before: Sequence[float], after: Sequence[float]) -> float:
    """Two-sided p-value that two means over the same questions, of values from 0 to 1, are alike.

    Normal approximation with one change of +1 and one of -1 added, after the unpaired one of
    Agresti & Caffo 2000. Raises ValueError for unequal lengths.
    """
    # The two added changes keep the variance above zero when all questions change alike.
    changes = [b - a for a, b in zip(before, after, strict=True)] + [1.0, -1.0]
    return _normal(fmean(changes), variance(changes) / len(changes))


def unpaired_p_value(before: Sequence[float], after: Sequence[float]) -> float:
    """Two-sided p-value that two means over different questions, of values from 0 to 1, are alike.

    Welch's test as a normal approximation, with one value 0 and one value 1 added to each side,
    which keeps it honest in small samples (Agresti & Caffo 2000, The American Statistician 54:280).
    """
    first, second = [*before, 0.0, 1.0], [*after, 0.0, 1.0]
    error = variance(first) / len(first) + variance(second) / len(second)
    return _normal(fmean(second) - fmean(first), error)


def format_points(share: float) -> str:
    """A difference of two shares in percentage points; what rounds to zero is +0.0."""
    return f"{100 * share:+z.1f}"


def _normal(mean: float, squared_error: float) -> float:
    return erfc(abs(mean) / sqrt(2 * squared_error))


def t95(freedom: int) -> float:
    """Two-sided 95 % quantile of Student's t; by Cornish and Fisher's expansion beyond 20 degrees.

    Raises ValueError for less than one degree of freedom.
    """
    if freedom < 1:
        raise ValueError(f"Student's t needs at least one degree of freedom, got {freedom}")
    if freedom <= len(_T95):
        return _T95[freedom - 1]
    z = Z95
    first = (z**3 + z) / (4 * freedom)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return z + first + second


def _newcombe(both: int, lost: int, gained: int, total: int) -> tuple[float, float]:
    first, second = (both + gained) / total, (both + lost) / total
    first_low, first_high = wilson(first, total)
    second_low, second_high = wilson(second, total)
    # Both shares are of the same questions, so their limits may not be joined as independent ones.
    phi = _phi(both, lost, gained, total)
    difference = first - second
    below = _join_limits(first - first_low, second_high - second, phi)
    above = _join_limits(first_high - first, second - second_low, phi)
    return max(-1.0, difference - below), min(1.0, difference + above)


def _join_limits(one: float, other: float, phi: float) -> float:
    # Rounding can bring the sum just below zero.
    return sqrt(max(0.0, one**2 - 2 * phi * one * other + other**2))


def _phi(both: int, lost: int, gained: int, total: int) -> float:
    neither = total - both - lost - gained
    margins = (both + lost) * (gained + neither) * (both + gained) * (lost + neither)
    if margins == 0:
        return 0.0
    # Newcombe's correction: phi is shrunk towards zero for positive association only.
    excess = both * neither - lost * gained
    shrunk = max(excess - total / 2, 0.0) if excess > 0 else float(excess)
    return shrunk / sqrt(margins)
