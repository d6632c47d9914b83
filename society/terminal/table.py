"""Rows of a query as a table for people, as CSV for spreadsheets or as JSON for programs."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Literal, TextIO

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from evals.invisible import HIDDEN
from society.terminal.output import Screen, escape_invisible
from society.terminal.streams import is_unicode
from store import output_files

Format = Literal["table", "csv", "json"]

# Characters between columns and at the margins, and the narrowest that text may be broken to.
_BETWEEN, _MARGIN = 3, 2
_NARROWEST_TEXT = 8


def write_rows(
    columns: Sequence[str], rows: Sequence[Sequence[object]], form: Format, stream: TextIO
) -> None:
    """Write all rows. JSON is one list of objects; a missing value is empty, or null in JSON.

    CSV quotes text that a spreadsheet would take for a formula, and on a terminal it names hidden
    characters. JSON holds the exact values, and null for NaN and infinity, which it cannot hold.

        write_rows(("arm", "accuracy"), [("multiagent", 0.62)], "csv", sys.stdout)
    """
    if form == "csv":
        _write_csv(columns, rows, stream)
    elif form == "json":
        _write_json(columns, rows, stream)
    else:
        _write_table(columns, rows, stream)


def make_table(title: str) -> Table:
    """An empty table for `Screen.draw`, with its title at the left and lines under its header."""
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=Text(title), title_justify="left")


def _write_csv(columns: Sequence[str], rows: Sequence[Sequence[object]], stream: TextIO) -> None:
    shown = stream.isatty()

    def cell(value: object) -> object:
        if value is None or isinstance(value, (bool, int, float)):
            return value
        text = output_files.escape_formula(str(value))
        return escape_invisible(str(text)) if shown else text

    out = csv.writer(stream, lineterminator="\n")
    out.writerow([cell(column) for column in columns])
    out.writerows([cell(value) for value in row] for row in rows)


def _write_json(columns: Sequence[str], rows: Sequence[Sequence[object]], stream: TextIO) -> None:
    names = _make_distinct(columns)
    write_json([dict(zip(names, row, strict=True)) for row in rows], stream)


def write_json(value: object, stream: TextIO) -> None:
    """Write one value as JSON, as `write_rows` does: null for NaN, hidden characters escaped."""
    text = json.dumps(
        _to_json_value(value),
        ensure_ascii=not is_unicode(stream),
        indent=1,
        default=str,
        allow_nan=False,
    )
    # An escape is the same JSON value, and a terminal does not obey it.
    stream.write(HIDDEN.sub(lambda found: json.dumps(found[0])[1:-1], text) + "\n")


def _to_json_value(value: object) -> object:
    """A value that JSON can hold (RFC 8259): no NaN, no infinity, and keys that are text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(_to_json_value(key)): _to_json_value(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json_value(each) for each in value]
    return value


def _make_distinct(columns: Sequence[str]) -> list[str]:
    """The names, with a number added to repeated ones: a JSON object holds each name once."""
    names: list[str] = []
    for column in columns:
        name, number = column, 0
        while name in names:
            number += 1
            name = f"{column}_{number}"
        names.append(name)
    return names


def _write_table(columns: Sequence[str], rows: Sequence[Sequence[object]], stream: TextIO) -> None:
    """Draw a table; only text columns wrap, since half a number is a different number.

    If wrapping makes too little room, lines are longer than the terminal is wide.
    """
    console = Screen(stream)
    natural = _measure_width(columns, rows)
    if not console.is_terminal:
        # A pipe has no width, and cutting cells to 80 columns would lose data.
        console.width = max(80, natural)
    narrow = natural > console.width
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0 if narrow else 1))
    least = _MARGIN
    for number, column in enumerate(columns):
        numeric = any(isinstance(row[number], (int, float, Decimal)) for row in rows)
        header = escape_invisible(column)
        if numeric and narrow:
            header = header.replace(" ", "\n")
        table.add_column(
            Text(header),
            justify="right" if numeric else "left",
            no_wrap=numeric,
            overflow="fold",
        )
        widest = _measure_longest([header, *(row[number] for row in rows)])
        least += (1 if narrow else _BETWEEN) + (widest if numeric else min(widest, _NARROWEST_TEXT))
    for row in rows:
        table.add_row(*(Text(_format_cell(value)) for value in row))
    console.width = max(console.width, least)
    console.print(table)


def _measure_longest(values: Iterable[object]) -> int:
    return max((cell_len(line) for v in values for line in _format_cell(v).split("\n")), default=0)


def _measure_width(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> int:
    widest = [
        max(_measure_longest([column]), _measure_longest(row[i] for row in rows))
        for i, column in enumerate(columns)
    ]
    return sum(widest) + _BETWEEN * len(widest) + _MARGIN


def _format_cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Decimal):
        return f"{value:f}"
    return escape_invisible(str(value))
