"""What stands in a table: values that know how they are written for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from evals import intervals
from evals.intervals import PairedDifference
from evals.intervals import Rate as Interval


class Cell(Protocol):
    """One value. `fields` are the columns that it takes in a CSV file."""

    @property
    def shown(self) -> str: ...

    @property
    def aside(self) -> str:
        """What belongs to it and is less important, such as its interval."""
        ...

    @property
    def fields(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Text:
    """Words; `arm` and `outcome` let a page mark them."""

    shown: str
    aside: str = ""
    arm: str | None = None
    outcome: str | None = None

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.shown,)


@dataclass(frozen=True, slots=True)
class Number:
    """A number with `places` decimals. None where there is none."""

    value: float | None
    places: int = 0
    aside: str = ""
    outcome: str | None = None

    @property
    def shown(self) -> str:
        return "–" if self.value is None else minus(f"{self.value:z,.{self.places}f}")

    @property
    def fields(self) -> tuple[str, ...]:
        return ("" if self.value is None else _exact(self.value),)


@dataclass(frozen=True, slots=True)
class Percent:
    """A share 0..1, shown in %; `low` and `high` are the ends of its interval."""

    value: float | None
    low: float | None = None
    high: float | None = None
    interval: bool = True

    @classmethod
    def of(cls, rate: Interval | None) -> Percent:
        return cls(rate.value, rate.low, rate.high) if rate else cls(None)

    @property
    def shown(self) -> str:
        return "–" if self.value is None else f"{100 * self.value:.1f}"

    @property
    def aside(self) -> str:
        return (
            ""
            if self.low is None or self.high is None
            else f"{100 * self.low:.1f}–{100 * self.high:.1f}"
        )

    @property
    def fields(self) -> tuple[str, ...]:
        values = (self.value, self.low, self.high) if self.interval else (self.value,)
        return tuple("" if value is None else _exact(100 * value) for value in values)


@dataclass(frozen=True, slots=True)
class Points:
    """A difference of two shares, shown in percentage points with its interval."""

    change: PairedDifference | None

    @property
    def shown(self) -> str:
        return points(self.change.difference) if self.change else "–"

    @property
    def aside(self) -> str:
        change = self.change
        return f"{points(change.low)} to {points(change.high)}" if change else ""

    @property
    def fields(self) -> tuple[str, ...]:
        if self.change is None:
            return ("", "", "")
        values = (self.change.difference, self.change.low, self.change.high)
        return tuple(_exact(100 * value) for value in values)


@dataclass(frozen=True, slots=True)
class Shift:
    """Part of a difference of two shares, in percentage points."""

    value: float
    aside: str = ""

    @property
    def shown(self) -> str:
        return points(self.value)

    @property
    def fields(self) -> tuple[str, ...]:
        return (_exact(100 * self.value),)


@dataclass(frozen=True, slots=True)
class Measured:
    """A value in its own unit, with its interval; None where it cannot be had."""

    value: float | None
    low: float | None
    high: float | None
    places: int = 3

    @property
    def shown(self) -> str:
        return "–" if self.value is None else minus(f"{self.value:z.{self.places}f}")

    @property
    def aside(self) -> str:
        if self.low is None or self.high is None:
            return ""
        return minus(f"{self.low:z.{self.places}f}–{self.high:z.{self.places}f}")

    @property
    def fields(self) -> tuple[str, ...]:
        values = (self.value, self.low, self.high)
        return tuple("" if value is None else _exact(value) for value in values)


@dataclass(frozen=True, slots=True)
class PValue:
    """A p-value; None where there is no test."""

    value: float | None
    aside: str = ""

    @property
    def shown(self) -> str:
        if self.value is None:
            return "–"
        return "< 0.0001" if self.value < 0.0001 else f"{self.value:.2g}"

    @property
    def fields(self) -> tuple[str, ...]:
        return ("" if self.value is None else _exact(self.value),)


@dataclass(frozen=True, slots=True)
class Duration:
    """Seconds, shown in the largest units that fit."""

    seconds: float
    aside: str = ""

    @property
    def shown(self) -> str:
        whole = round(self.seconds)
        if whole < 60:
            return f"{whole} s"
        if whole < 3600:
            return f"{whole // 60} min {whole % 60:02} s"
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"

    @property
    def fields(self) -> tuple[str, ...]:
        return (_exact(self.seconds),)


@dataclass(frozen=True, slots=True)
class Alike:
    """A value beside the one that it is compared with: people see "=" where they are equal."""

    cell: Cell
    equal: bool | None

    @property
    def shown(self) -> str:
        return "=" if self.equal else self.cell.shown

    @property
    def aside(self) -> str:
        return "" if self.equal else self.cell.aside

    @property
    def fields(self) -> tuple[str, ...]:
        return self.cell.fields


@dataclass(frozen=True, slots=True)
class Column:
    """`title` for people, `name` for programs; `interval` adds NAME_low and NAME_high to a CSV
    file. Text stands left, numbers right."""

    title: str
    name: str
    text: bool = False
    interval: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        low_high = (f"{self.name}_low", f"{self.name}_high") if self.interval else ()
        return (self.name, *low_high)


@dataclass(frozen=True, slots=True)
class Table:
    """A table by its name; `note` says how its numbers are to be read."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


def points(share: float) -> str:
    """A difference of shares in percentage points with its sign, a real minus."""
    return minus(intervals.points(share))


def minus(number: str) -> str:
    """The number with a real minus sign."""
    return number.replace("-", "−")


def seeds(values: Sequence[tuple[int, float]], *, change: bool = False) -> str:
    """The single seeds' shares in % (or changes in points); empty for a single seed."""
    if len(values) < 2:
        return ""
    shown = (points(v) if change else f"{100 * v:.1f}" for _, v in values)
    return ", ".join(shown)


def _exact(value: float) -> str:
    return f"{value:.6g}" if value != int(value) else str(int(value))
