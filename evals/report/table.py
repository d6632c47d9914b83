"""Tables as data: each column says which value of a row it shows, and how that value is written.

A page, a CSV file and a paper show the cells of the same table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from evals import intervals
from evals.intervals import PairedDifference

if TYPE_CHECKING:
    from evals.report.facts import ExperimentFacts, Facts

R = TypeVar("R")
NOTHING = "–"
"""What people read where there is no value; programs read an empty field."""
# Columns that say which rows these are: one value for all rows is no news in each of them.
_SAID_ONCE = {
    "arm", "decoding", "encoder", "experiment", "iteration", "measure", "responses", "role", "run",
    "split", "stage", "status", "task",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cell:
    """One value as people read it and as programs do.

    `aside` belongs to `shown` and matters less, such as its interval. `fields` are the columns that
    the cell takes in a CSV file. `arm` and `outcome` let a page mark the cell.
    """

    shown: str
    aside: str = ""
    fields: tuple[str, ...] = ("",)
    arm: str | None = None
    outcome: str | None = None


class Span(NamedTuple):
    """A value with the ends of its interval; None for what is unknown."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Format:
    """How a column writes its values: `write` makes the cell of one value.

    Text stands left, numbers right. `interval` adds NAME_low and NAME_high to a CSV file.
    """

    write: Callable[[Any], Cell]
    text: bool = False
    interval: bool = False


def _write_text(text: str) -> Cell:
    return Cell(text, fields=(text,))


def _write_arm(name: str) -> Cell:
    return Cell(name, fields=(name,), arm=name)


def _write_society(iteration: int) -> Cell:
    return _write_text("untuned" if iteration == 0 else f"iteration {iteration}")


def _write_number(value: float | None, places: int = 0) -> Cell:
    if value is None:
        return Cell(NOTHING)
    # The format's `z` writes a rounded negative zero as 0: "−0" would read as a loss.
    return Cell(replace_minus(f"{value:z,.{places}f}"), fields=(_exact(value),))


def _write_percent(share: float | None) -> Cell:
    if share is None:
        return Cell(NOTHING)
    return Cell(f"{100 * share:.1f}", fields=(_exact(100 * share),))


def _write_percent_interval(rate: Any) -> Cell:
    """Of anything with a value and the ends of its interval, such as a `Rate`, or None."""
    if rate is None or rate.value is None:
        return Cell(NOTHING, fields=("", "", ""))
    # Three fields in every case: a row with fewer would shift the columns of a CSV file.
    ends = (rate.low, rate.high)
    aside = "" if None in ends else f"{100 * rate.low:.1f}–{100 * rate.high:.1f}"
    fields = ("" if value is None else _exact(100 * value) for value in (rate.value, *ends))
    return Cell(f"{100 * rate.value:.1f}", aside, tuple(fields))


def _write_points(share: float) -> Cell:
    return Cell(show_points(share), fields=(_exact(100 * share),))


def _write_difference(change: PairedDifference | None) -> Cell:
    if change is None:
        return Cell(NOTHING, fields=("", "", ""))
    aside = f"{show_points(change.low)} to {show_points(change.high)}"
    values = (change.difference, change.low, change.high)
    return Cell(
        show_points(change.difference), aside, tuple(_exact(100 * value) for value in values)
    )


def _write_measured(span: Any) -> Cell:
    """A value in its own unit, with its interval; see `_write_percent_interval`."""
    ends = (span.low, span.high)
    fields = tuple("" if value is None else _exact(value) for value in (span.value, *ends))
    if span.value is None:
        return Cell(NOTHING, fields=fields)
    aside = "" if None in ends else replace_minus(f"{span.low:z.3f}–{span.high:z.3f}")
    return Cell(replace_minus(f"{span.value:z.3f}"), aside, fields)


def _write_p_value(p: float | None) -> Cell:
    return Cell(NOTHING) if p is None else Cell(show_p_value(p), fields=(_exact(p),))


def _write_duration(seconds: float) -> Cell:
    whole = round(seconds)
    if whole < 60:
        shown = f"{whole} s"
    elif whole < 3600:
        shown = f"{whole // 60} min {whole % 60:02} s"
    else:
        shown = f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return Cell(shown, fields=(_exact(seconds),))


TEXT = Format(_write_text, text=True)
ARM = Format(_write_arm, text=True)
"""An arm's name, marked as such."""
SOCIETY = Format(_write_society, text=True)
"""Which society it is, by the number of the iteration it has been through."""
NUMBER = Format(_write_number)
PERCENT = Format(_write_percent)
"""A share of 1, in %."""
PERCENT_INTERVAL = Format(_write_percent_interval, interval=True)
POINTS = Format(_write_points)
"""A part of a difference of two shares, in percentage points."""
DIFFERENCE = Format(_write_difference, interval=True)
"""A difference of two shares, in percentage points."""
MEASURED = Format(_write_measured, interval=True)
P_VALUE = Format(_write_p_value)
DURATION = Format(_write_duration)
"""Seconds, in the largest units that fit."""


def decimals(places: int) -> Format:
    """A number with so many decimals."""
    return Format(lambda value: _write_number(value, places))


@dataclass(frozen=True, slots=True)
class Column(Generic[R]):
    """`title` is for people, `name` for programs; `value` takes what `format` writes from a row.

    `note` explains the column below the table, wherever the column is shown.

    Column("labels right", "label_accuracy", lambda each: each.accuracy, PERCENT_INTERVAL)
    """

    title: str
    name: str
    value: Callable[[R], object]
    format: Format = TEXT
    note: str = ""

    @property
    def text(self) -> bool:
        return self.format.text

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that it takes in a CSV file."""
        low_high = (f"{self.name}_low", f"{self.name}_high") if self.format.interval else ()
        return (self.name, *low_high)

    def cell(self, row: R) -> Cell:
        return self.format.write(self.value(row))


@dataclass(frozen=True, slots=True)
class ReportTable:
    """A table by its name; `note` says how its numbers are to be read, its columns aside."""

    name: str
    title: str
    columns: tuple[Column[Any], ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    @property
    def explanation(self) -> str:
        """The note with those of the columns: nothing is explained that the table does not have."""
        notes = dict.fromkeys([self.note, *(column.note for column in self.columns)])
        return " ".join(note for note in notes if note)

    def drop(self, *names: str) -> ReportTable:
        """The table without the columns of these names."""
        kept = [place for place, each in enumerate(self.columns) if each.name not in names]
        return self._take(kept)

    def select(self, column: str, value: str) -> ReportTable:
        """Only the rows that show `value` in a column."""
        place = [each.name for each in self.columns].index(column)
        return replace(self, rows=tuple(row for row in self.rows if row[place].shown == value))

    def _take(self, kept: Sequence[int]) -> ReportTable:
        return replace(
            self,
            columns=tuple(self.columns[place] for place in kept),
            rows=tuple(tuple(row[place] for place in kept) for row in self.rows),
        )

    def trim(self) -> ReportTable:
        """The table as a page shows it: without columns that are empty, and with what is the same
        in all rows, such as the decoding, said once below it."""
        kept, said = [], []
        for place, column in enumerate(self.columns):
            shown = {(row[place].shown, row[place].aside) for row in self.rows}
            # A dash in every row says nothing; a dash beside values says that one is missing.
            if shown <= {("", ""), (NOTHING, "")}:
                continue
            if column.name in _SAID_ONCE and len(shown) == 1 and len(self.rows) > 1:
                said.append(f"{column.title} {self.rows[0][place].shown}")
            else:
                kept.append(place)
        everywhere = f"All rows: {', '.join(said)}." if said else ""
        note = " ".join(part for part in (everywhere, self.note) if part)
        return replace(self._take(kept), note=note)


@dataclass(frozen=True, slots=True)
class TableSpec(Generic[R]):
    """A table over all experiments of a report: `rows` takes what its columns show from one."""

    name: str
    title: str
    columns: Sequence[Column[R]]
    rows: Callable[[ExperimentFacts], Iterable[R]]
    note: str = ""

    def build(self, facts: Facts) -> ReportTable:
        """The rows of every experiment one after the other; if there are several experiments, a
        first column says which."""
        several = len(facts.experiments) > 1
        columns: tuple[Column[Any], ...] = tuple(self.columns)
        rows: list[tuple[Cell, ...]] = []
        for experiment in facts.experiments:
            # The column of a single experiment would say the same in every row.
            lead = (TEXT.write(experiment.label),) if several else ()
            rows += [(*lead, *row) for row in fill(columns, self.rows(experiment))]
        if several:
            columns = (Column("experiment", "experiment", str), *columns)
        return ReportTable(self.name, self.title, columns, tuple(rows), self.note)


def fill(columns: Sequence[Column[R]], rows: Iterable[R]) -> tuple[tuple[Cell, ...], ...]:
    """The cells of all rows."""
    return tuple(tuple(column.cell(row) for column in columns) for row in rows)


def show_points(share: float) -> str:
    """A difference of shares in percentage points with its sign, a real minus."""
    return replace_minus(intervals.format_points(share))


def show_p_value(p: float) -> str:
    """A p-value with two digits."""
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}"


def replace_minus(number: str) -> str:
    """The number with a real minus sign."""
    return number.replace("-", "−")


def list_seeds(values: Sequence[tuple[int, float]]) -> str:
    """The single seeds' shares in %; a dash for a single seed."""
    return ", ".join(f"{100 * value:.1f}" for _, value in values) if len(values) > 1 else NOTHING


# Six digits: more than an interval can justify, few enough to hide the noise of summation order.
def _exact(value: float) -> str:
    return f"{value:.6g}" if value != int(value) else str(int(value))
