"""How many corrected and how many kept conversations a critic's dataset takes."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import floor


@dataclass(frozen=True, slots=True)
class Mixture:
    """Row counts of the two sides; `note` says if `w` cannot be had, or how many rows it costs."""

    corrected: int
    kept: int
    note: str | None = None


def compute_mixture(corrected: int, kept: int, w: float, limit: int | None = None) -> Mixture:
    """The largest sample without repeats whose corrected share is `w`.

    `corrected` and `kept` count the rows there are. If both sides have rows, the total is
    n = floor(min(corrected / w, kept / (1 - w))), at most `limit`; a side with weight 0 sets no
    bound. Of these, floor(w·n + 1/2) are corrected and the rest kept. A side never makes up for the
    other's shortage, but if one side is empty, the other is used alone. If more than a third of the
    possible rows are left out, the note says so.

    ```python
    compute_mixture(corrected=10, kept=90, w=0.5)  # Mixture(corrected=10, kept=10, note="…")
    ```
    """
    if not 0 <= w <= 1:
        raise ValueError(f"w must lie in 0..1, not {w}")
    if limit is not None and limit < 1:
        raise ValueError(f"max_examples must be at least 1, not {limit}")
    # The decimal that the user wrote. The float 0.1 is a little more, and floor(1 / w) would be 9.
    share = Fraction(repr(w))
    if not corrected and not kept:
        return Mixture(0, 0, "no conversation to train on")
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
    # Round half up, whatever Python's round() does with .5.
    taken = floor(share * total + Fraction(1, 2))
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


def _cap(count: int, limit: int | None) -> int:
    return count if limit is None else min(count, limit)
