"""What a run has spent so far, in a sentence."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from store.errors import StoreError
from store.ledger import Store

_SPENT = """
SELECT coalesce(sum(usd), 0), coalesce(sum(calls + failed) FILTER (WHERE usd IS NULL), 0)::BIGINT,
    coalesce(sum(failed), 0)::BIGINT, coalesce(sum(estimated), 0)::BIGINT
FROM spend
"""


@dataclass(frozen=True, slots=True)
class Spending:
    """USD as far as prices are known, and how much of it is not known exactly.

    `unknown` counts calls and jobs without a price, `failed` attempts without an answer, and
    `estimated` calls whose tokens nobody has told.
    """

    usd: float
    unknown: int
    failed: int
    estimated: int
    cap_usd: float | None

    def __str__(self) -> str:
        """Empty where nothing costs anything."""
        if not self.usd and not self.unknown:
            return ""
        least = "at least " if self.unknown else ""
        cap = "" if self.cap_usd is None else f" of budget_usd = {self.cap_usd:g}"
        parts = [f"spent so far: {least}{rounded(self.usd):f} USD{cap}"]
        if self.unknown:
            parts.append(f"{self.unknown} call(s) have no known price or cost")
        if self.failed:
            parts.append(f"{self.failed} attempt(s) failed or were lost")
        if self.estimated:
            parts.append(f"{self.estimated} call(s) count with the most tokens they can have")
        return "; ".join(parts)


def spending_of(store: Store) -> Spending:
    """What is stored of a run's spending."""
    [(usd, unknown, failed, estimated)] = store.rows(_SPENT)
    found = store.rows("SELECT config FROM runs")
    cap = json.loads(found[0][0]).get("budget_usd") if found else None
    return Spending(usd, unknown, failed, estimated, cap)


def spent_so_far(database: Path) -> str:
    """The sentence, empty where nothing was spent or where the file cannot tell."""
    try:
        with Store.open(database, read_only=True) as store:
            return str(spending_of(store))
    except StoreError:
        return ""


def rounded(usd: float) -> Decimal:
    """To the cent, or to three digits where that would be too little."""
    if usd >= 1 or not usd:
        return Decimal(f"{usd:.2f}")
    return Decimal(f"{usd:.3g}")
