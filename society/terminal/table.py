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

from evals.visible import HIDDEN
from society.terminal.output import Screen, plain
from society.terminal.streams import is_unicode
from store import output_files

Format = Literal["table", "csv", "json"]

# What a table takes beside its cells, and what text may be broken down to.
_BETWEEN, _MARGIN = 3, 2
_NARROWEST_TEXT = 8


def write(
    columns: Sequence[str], rows: Sequence[Sequence[object]], form: Format, stream: TextIO
) -> None:
    """Write all rows. JSON is one list of objects; an absent value is empty, or null in JSON.

    In CSV, text that a spreadsheet would take for a formula is quoted; on a terminal its hidden
    characters are named. JSON always holds the exact values, and null for NaN and
    infinity, which it cannot hold.
    """
    if form == "csv":
        _csv(columns, rows, stream)
    elif form == "json":
        _json(columns, rows, stream)
    else:
        _table(columns, rows, stream)


def _csv(columns: Sequence[str], rows: Sequence[Sequence[object]], stream: TextIO) -> None:
    shown = stream.isatty()

    def cell(value: object) -> object:
        if value is None or isinstance(value, (bool, int, float)):
            return value
        text = output_files.escape_formula(str(value))
        return plain(str(text)) if shown else text

    out = csv.writer(stream, lineterminator="\n")
    out.writerow([cell(column) for column in columns])
    out.writerows([cell(value) for value in row] for row in rows)


def _json(columns: Sequence[str], rows: Sequence[Sequence[object]], stream: TextIO) -> None:
    names = _distinct(columns)
    objects = [dict(zip(names, map(_standard, row), strict=True)) for row in rows]
    text = json.dumps(
        objects, ensure_ascii=not is_unicode(stream), indent=1, default=str, allow_nan=False
    )
    # An escape is the same value, and no terminal obeys it.
    stream.write(HIDDEN.sub(lambda found: json.dumps(found[0])[1:-1], text) + "\n")


def _standard(value: object) -> object:
    """A value as JSON has it (RFC 8259): there is neither NaN nor infinity, and keys are text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(_standard(key)): _standard(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_standard(each) for each in value]
    return value


def _distinct(columns: Sequence[str]) -> list[str]:
    """The names, with a number behind one that is there already: a JSON object holds each once."""
    names: list[str] = []
    for column in columns:
        name, number = column, 0
        while name in names:
            number += 1
            name = f"{column}_{number}"
        names.append(name)
    return names


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]], stream: TextIO) -> None:
    """A text that is broken is the same text, but half a number is another one: where not even
    broken texts make room, lines are longer than the terminal is wide."""
    console = Screen(stream)
    natural = _width(columns, rows)
    if not console.is_terminal:
        # A pipe has no width; cutting cells to 80 columns would lose what was asked for.
        console.width = max(80, natural)
    narrow = natural > console.width
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0 if narrow else 1))
    least = _MARGIN
    for number, column in enumerate(columns):
        numeric = any(isinstance(row[number], (int, float, Decimal)) for row in rows)
        header = plain(column)
        if numeric and narrow:
            header = header.replace(" ", "\n")
        table.add_column(
            Text(header),
            justify="right" if numeric else "left",
            no_wrap=numeric,
            overflow="fold",
        )
        widest = _longest([header, *(row[number] for row in rows)])
        least += (1 if narrow else _BETWEEN) + (widest if numeric else min(widest, _NARROWEST_TEXT))
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    console.width = max(console.width, least)
    console.print(table)


def _longest(values: Iterable[object]) -> int:
    return max((cell_len(line) for v in values for line in _cell(v).split("\n")), default=0)


def _width(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> int:
    widest = [
        max(_longest([column]), _longest(row[i] for row in rows))
        for i, column in enumerate(columns)
    ]
    return sum(widest) + _BETWEEN * len(widest) + _MARGIN


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Decimal):
        return f"{value:f}"
    return plain(str(value))
