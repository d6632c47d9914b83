"""One row of a data file, which knows where it stands, and what a source of rows is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, Protocol

from evals.tasks.base import Split

Unit = Literal["line", "row", "item"]


@dataclass(frozen=True, slots=True)
class DataRow:
    """The fields of one row. `number` counts from 1 in `unit`s of `file`."""

    file: str
    unit: Unit
    number: int
    fields: Mapping[str, object]

    @property
    def place(self) -> str:
        return f"{self.file}, {self.unit} {self.number}"

    def make_error(self, what: str) -> ValueError:
        """The error that this row cannot be used; `what` says why and what to do."""
        return ValueError(f"{self.place}: {what}")

    def value(self, field: str) -> object:
        """Raises ValueError where the row has no such field."""
        if field not in self.fields:
            there = ", ".join(str(name) for name in self.fields) or "none"
            raise self.make_error(f"the field {field!r} is missing (fields there: {there})")
        return self.fields[field]

    def optional(self, field: str) -> str | None:
        """A field's value as text, stripped; None where it is null or blank.

        Raises ValueError for a missing field, a list or an object, and text no file can hold.
        """
        value = self.value(field)
        if value is None:
            return None
        return _check_encodable(self, field, _to_text(self, field, value)).strip() or None

    def text(self, field: str) -> str:
        """Like `optional`, but raises ValueError for an empty field too."""
        value = self.optional(field)
        if value is None:
            raise self.make_error(f"the field {field!r} is empty; fill it in or remove the row")
        return value

    def texts(self, field: str) -> list[str]:
        """A field that holds a list, item by item, null as "". Raises ValueError for another."""
        value = self.value(field)
        if not isinstance(value, list):
            raise self.make_error(f"the field {field!r} must be a list, not {_shorten(value)}")
        return [
            ""
            if item is None
            else _check_encodable(self, field, _to_text(self, field, item)).strip()
            for item in value
        ]


class RowSource(Protocol):
    """Rows of both splits. `shared`: both splits are drawn from the same rows."""

    @property
    def shared(self) -> bool: ...

    def rows(self, split: Split) -> Sequence[DataRow]:
        """All rows of a split, in the order of the files.

        Raises ValueError that names the file, the place and the remedy.
        """

    def describe(self, split: Split) -> str:
        """Where a split's rows come from, for messages."""


def _to_text(row: DataRow, field: str, value: object) -> str:
    if isinstance(value, str):
        return value
    # Before the numbers, as every bool is an int in Python. JSON writes it in lower case.
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | Decimal):
        return str(value)
    raise row.make_error(f"the field {field!r} must be text or a number, not {_shorten(value)}")


def _check_encodable(row: DataRow, field: str, text: str) -> str:
    if "\x00" in text:
        raise row.make_error(f"the field {field!r} contains a NUL character; remove it")
    # The store would refuse half a character only later, and could not name the row.
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise row.make_error(
            f"the field {field!r} contains U+{code:04X}, half a character; repair the text"
        ) from None
    return text


def _shorten(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
