"""What a whole sweep will cost, and what its caps allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from society.costs import lengths
from society.costs.estimate import CostEstimate, estimate_cost
from society.costs.table import format_prices, list_assumptions, round_cells
from society.sweeps.definition import Sweep
from society.terminal.output import Screen
from society.terminal.table import Format, write_rows

_COST_COLUMNS = (
    "point",
    "runs",
    "calls",
    "prompt tokens",
    "completion tokens",
    "trained tokens",
    "USD low",
    "USD expected",
    "USD high",
)


def show_cost(
    sweep: Sweep, answer: int | None, summary: int | None, form: Format, stream: TextIO
) -> None:
    """Print the cost of every point, times its seeds, and their sum."""
    points = sweep.representatives()
    estimates = {m.point.name: estimate_cost(m.experiment, answer, summary) for m in points}
    # The seed does not change the cost, so one estimate per point is multiplied.
    seeds = {
        m.point.name: sum(other.point.name == m.point.name for other in sweep.members)
        for m in points
    }
    rows = [_row(name or "all", found, seeds[name]) for name, found in estimates.items()]
    if form == "table":
        rows.append(_sum_rows(rows))
    shown = [round_cells(row) for row in rows] if form == "table" else rows
    write_rows(_COST_COLUMNS, shown, form, stream)
    if form != "table":
        return
    console = Screen(stream, soft_wrap=True)
    unpriced = dict.fromkeys(
        a for found in estimates.values() for a in found.addresses_without_price
    )
    text = _format_outcome(rows[-1], list(unpriced)) + format_budget(sweep) + "."
    # Each run has deployments and saved models of its own.
    fees = dict.fromkeys(
        str(fee) for found in estimates.values() for fee in (*found.deployments, *found.storage)
    )
    seen = list(
        dict.fromkeys(line for found in estimates.values() for line in format_prices(found))
    )
    for line in (text, *fees, *seen, *list_assumptions(points[0].config)):
        console.print(line)


def _row(point: str, found: CostEstimate, runs: int) -> tuple[object, ...]:
    tokens = [
        lengths.sum_ranges(getattr(line, kind) for line in found.lines).expected * runs
        for kind in ("calls", "prompt", "completion", "trained")
    ]
    usd = found.usd
    money = (None,) * 3 if usd is None else tuple(getattr(usd * runs, k) for k in _ORDER)
    return (point, runs, *(round(count) for count in tokens), *money)


_ORDER = ("low", "expected", "high")


def _sum_rows(rows: Sequence[tuple[object, ...]]) -> tuple[object, ...]:
    # A column with an unknown value has an unknown sum.
    columns = list(zip(*rows, strict=True))[1:]
    return ("total", *(None if None in column else sum(column) for column in columns))


def _format_outcome(total: tuple[object, ...], unpriced: Sequence[str]) -> str:
    low, expected, high = total[-3:]
    if expected is None:
        return f"The cost is unknown: no price for {', '.join(unpriced)}"
    return f"Expected: {expected:.2f} USD, between {low:.2f} and at most {high:.2f} USD"


def format_budget(sweep: Sweep) -> str:
    """The sum of the runs' caps, as part of a sentence; empty without a cap."""
    caps = [member.config.budget_usd for member in sweep.members]
    known = [cap for cap in caps if cap is not None]
    if not known:
        return ""
    if len(known) < len(caps):
        return f"; budget_usd holds for each run on its own, {len(caps) - len(known)} have none"
    return f"; budget_usd holds for each run on its own, together at most {sum(known):.2f} USD"
