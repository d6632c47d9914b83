"""How far a sweep is, and what a whole sweep will cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from society.costs import lengths
from society.costs.estimate import Estimate, estimate
from society.costs.overview import assumptions, prices, with_cents
from society.runs import folder as folders
from society.runs.folder import RunFolder
from society.runs.status import read_notice
from society.sweeps import checks, results
from society.sweeps.definition import Sweep
from society.sweeps.record import SweepRecord
from society.terminal.output import Screen, write_line
from society.terminal.table import Format, write
from store.errors import StoreError, StoreLocked, StoreMissing
from store.ledger import Store

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


def show_status(folder: RunFolder, record: SweepRecord, stream: TextIO) -> None:
    """Print how far every run of the sweep is, and the results so far."""
    runs = folder.path.parent
    states = [(member.run, _state(folders.folder(runs, member.run))) for member in record.members]
    finished = sum(state.startswith("finished") for _, state in states)
    write_line(stream, f"sweep {folder.name}: {finished} of {len(states)} runs finished")
    write(("run", "state"), states, "table", stream)
    results.show(record, runs, stream)


def _state(run: RunFolder) -> str:
    try:
        with Store.open(run.database, read_only=True) as store:
            if store.running:
                return f"running: {_notice(run)}"
            found = store.run()
    except StoreMissing:
        return "not started"
    except StoreLocked:
        return f"running: {_notice(run)}"
    except StoreError as error:
        return f"unreadable: {error}"
    if found is None or found.finished_at is None:
        return "stopped before its end"
    return f"finished {found.finished_at:%Y-%m-%d %H:%M} UTC"


def _notice(run: RunFolder) -> str:
    notice = read_notice(run)
    return "in use by another process" if notice is None else notice.line


def show_cost(
    sweep: Sweep, answer: int | None, summary: int | None, form: Format, stream: TextIO
) -> None:
    """Price every point, times its seeds, and the sum of them all."""
    points = sweep.representatives()
    estimates = {m.point.name: estimate(m.experiment, answer, summary) for m in points}
    seeds = {
        m.point.name: sum(other.point.name == m.point.name for other in sweep.members)
        for m in points
    }
    rows = [_row(name or "all", found, seeds[name]) for name, found in estimates.items()]
    if form == "table":
        rows.append(_total(rows))
    shown = [with_cents(row) for row in rows] if form == "table" else rows
    write(_COST_COLUMNS, shown, form, stream)
    if form != "table":
        return
    console = Screen(stream, soft_wrap=True)
    unpriced = dict.fromkeys(a for found in estimates.values() for a in found.unpriced)
    text = _outcome(rows[-1], list(unpriced)) + checks.budget(sweep) + "."
    seen = list(dict.fromkeys(line for found in estimates.values() for line in prices(found)))
    for line in (text, *seen, *assumptions(points[0].config)):
        console.print(line)


def _row(point: str, found: Estimate, runs: int) -> tuple[object, ...]:
    tokens = [
        lengths.total(getattr(line, kind) for line in found.lines).expected * runs
        for kind in ("calls", "prompt", "completion", "trained")
    ]
    usd = found.usd
    money = (None,) * 3 if usd is None else tuple(getattr(usd * runs, k) for k in _ORDER)
    return (point, runs, *(round(count) for count in tokens), *money)


_ORDER = ("low", "expected", "high")


def _total(rows: Sequence[tuple[object, ...]]) -> tuple[object, ...]:
    columns = list(zip(*rows, strict=True))[1:]
    return ("total", *(None if None in column else sum(column) for column in columns))


def _outcome(total: tuple[object, ...], unpriced: Sequence[str]) -> str:
    low, expected, high = total[-3:]
    if expected is None:
        return f"The cost is unknown: no price for {', '.join(unpriced)}"
    return f"Expected: {expected:.2f} USD, between {low:.2f} and at most {high:.2f} USD"
