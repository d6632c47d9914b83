"""How many corrected and how many kept conversations a critic learns from, and what each weighs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from math import floor

from store.records import Critics

DEFAULT_W = 0.5
"""The corrected share of a sample for which none is asked."""
_NOTHING = "no conversation to train on"
# The note names weights above this: then few conversations decide what is learnt.
_HEAVY = 5.0


@dataclass(frozen=True, slots=True)
class Mixture:
    """Row counts of the two sides, and what one row of each weighs; the mean weight is 1.

    `note` says if `w` cannot be had, or what it costs.
    """

    corrected: int
    kept: int
    note: str | None = None
    corrected_weight: float = 1.0
    kept_weight: float = 1.0


def mix_conversations(
    corrected: int, kept: int, rule: Critics, w: float | None, limit: int | None = None
) -> Mixture:
    """The mixture by `rule`, of `corrected` and `kept` rows that there are; at most `limit` rows.

    ```python
    mix_conversations(10, 90, "all", None)  # Mixture(10, 90): every row weighs 1
    mix_conversations(10, 90, "all", 0.5)  # Mixture(10, 90, …): weights 5 and 0.556
    mix_conversations(10, 90, "sample", 0.5)  # Mixture(10, 10, …)
    ```
    """
    if rule == "sample":
        return sample_mixture(corrected, kept, DEFAULT_W if w is None else w, limit)
    return weigh_mixture(corrected, kept, w, limit)


def weigh_mixture(corrected: int, kept: int, w: float | None, limit: int | None = None) -> Mixture:
    """Every row, with weights by which the corrected ones count `w` of the whole.

    Without `w` every row weighs 1. Rows are left out only for `limit`, which then keeps the sides'
    natural proportion, or comes as near to `w` as the rows allow, and for a `w` of 0 or 1, which
    leaves one side without weight. If one side is empty, the other is used alone.
    """
    _check_bounds(w, limit)
    total = _cap(corrected + kept, limit)
    if w is None:
        taken = _round_half_up(Fraction(total * corrected, max(1, corrected + kept)))
        return Mixture(taken, total - taken, None if total else _NOTHING)
    share = Fraction(repr(w))
    if not corrected or not kept or share in (0, 1) or total < 2:
        return sample_mixture(corrected, kept, w, limit)
    # At least one row of each side, no more than there are, and no place left empty.
    least, most = max(1, total - kept), min(corrected, total - 1)
    taken = min(max(_round_half_up(share * total), least), most)
    weights = share * total / taken, (1 - share) * total / (total - taken)
    mixture = Mixture(taken, total - taken, None, *map(float, weights))
    return replace(mixture, note=_describe_weights(mixture, w))


def count_repeats(mixture: Mixture) -> int:
    """The rows of a mixture for a provider that takes no weights.

    The lighter side's rows come once, those of the other as often as the weights' ratio says,
    rounded half up.

    ```python
    count_repeats(mix_conversations(10, 90, "all", 0.5))  # 180: each corrected one comes 9 times
    ```
    """
    lighter = min(mixture.corrected_weight, mixture.kept_weight)
    return sum(
        rows * floor(weight / lighter + 0.5)
        for rows, weight in (
            (mixture.corrected, mixture.corrected_weight),
            (mixture.kept, mixture.kept_weight),
        )
    )


def bound_repeats(conversations: float, rule: Critics, w: float | None) -> float:
    """The most rows that `conversations` can come to for a provider that takes no weights."""
    if rule == "sample" or w is None or w in (0, 1):
        return conversations
    # The lighter side's rows make up its share of all, and rounding adds half a row to each other.
    return conversations * (1 / min(w, 1 - w) + 0.5)


def _describe_weights(mixture: Mixture, w: float) -> str | None:
    sides = {
        "corrected": (mixture.corrected, mixture.corrected_weight),
        "kept": (mixture.kept, mixture.kept_weight),
    }
    side, (rows, weight) = max(sides.items(), key=lambda item: item[1][1])
    if weight <= _HEAVY:
        return None
    change = "lower" if side == "corrected" else "raise"
    return (
        f"each of the {rows} {side} conversations weighs {weight:.3g}, since there are so few for "
        f"w = {w}; {change} datasets.w, or leave it out (then all weigh the same)"
    )


def sample_mixture(corrected: int, kept: int, w: float, limit: int | None = None) -> Mixture:
    """The largest sample without repeats whose corrected share is `w`.

    `corrected` and `kept` count the rows there are. If both sides have rows, the total is
    n = floor(min(corrected / w, kept / (1 - w))), at most `limit`; a side with weight 0 sets no
    bound. Of these, floor(w·n + 1/2) are corrected and the rest kept. A side never makes up for the
    other's shortage, but if one side is empty, the other is used alone. If more than a third of the
    possible rows are left out, the note says so.

    ```python
    sample_mixture(corrected=10, kept=90, w=0.5)  # Mixture(corrected=10, kept=10, note="…")
    ```
    """
    _check_bounds(w, limit)
    # The decimal that the user wrote. The float 0.1 is a little more, and floor(1 / w) would be 9.
    share = Fraction(repr(w))
    if not corrected and not kept:
        return Mixture(0, 0, _NOTHING)
    if not corrected:
        note = f"no corrected conversation: only kept ones, instead of w = {w}" if share else None
        return Mixture(0, _cap(kept, limit), note)
    if not kept:
        note = f"no kept conversation: only corrected ones, instead of w = {w}"
        return Mixture(_cap(corrected, limit), 0, note if share != 1 else None)
    # As many rows as the scarcer side allows. A side with weight 0 sets no bound.
    bounds = []
    if share > 0:
        bounds.append(corrected / share)
    if share < 1:
        bounds.append(kept / (1 - share))
    total = _cap(floor(min(bounds)), limit)
    taken = _round_half_up(share * total)
    possible = _cap(corrected + kept, limit)
    shortage = _explain_shortage(total, corrected, kept, w) if 3 * total < 2 * possible else None
    return Mixture(taken, total - taken, shortage)


def _explain_shortage(total: int, corrected: int, kept: int, w: float) -> str:
    found = {"corrected": corrected, "kept": kept}
    shares = {"corrected": w, "kept": 1 - w}
    few = min((side for side in found if shares[side] > 0), key=lambda s: found[s] / shares[s])
    change = "lower" if few == "corrected" else "raise"
    return (
        f"trains on only {total} of {corrected + kept} conversations ({corrected} corrected, "
        f"{kept} kept): there are too few {few} ones for w = {w} to take more; {change} "
        "datasets.w (0 takes all kept ones, 1 all corrected ones)"
    )


def _check_bounds(w: float | None, limit: int | None) -> None:
    if w is not None and not 0 <= w <= 1:
        raise ValueError(f"w must lie in 0..1, not {w}")
    if limit is not None and limit < 1:
        raise ValueError(f"max_examples must be at least 1, not {limit}")


def _round_half_up(number: Fraction) -> int:
    # Whatever Python's round() does with .5.
    return floor(number + Fraction(1, 2))


def _cap(count: int, limit: int | None) -> int:
    return count if limit is None else min(count, limit)
