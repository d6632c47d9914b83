"""Rows of a query as a table for people, or as CSV or JSON for programs."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from typing import Literal, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from society.live import printable

Format = Literal["table", "csv", "json"]


def write(
    columns: Sequence[str], rows: Sequence[Sequence[object]], form: Format, stream: TextIO
) -> None:
    """Write all rows. JSON is one list of objects; an absent value is empty, or null in JSON."""
    if form == "csv":
        out = csv.writer(stream, lineterminator="\n")
        out.writerow(columns)
        out.writerows(rows)
    elif form == "json":
        objects = [dict(zip(columns, row, strict=True)) for row in rows]
        json.dump(objects, stream, ensure_ascii=False, indent=1, default=str)
        stream.write("\n")
    else:
        _table(columns, rows, stream)


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]], stream: TextIO) -> None:
    console = Console(file=stream, highlight=False)
    if not console.is_terminal:
        # A pipe has no width; cutting cells to 80 columns would lose what was asked for.
        console.width = max(80, _width(columns, rows))
    table = Table(box=box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        numeric = any(isinstance(row[number], (int, float)) for row in rows)
        table.add_column(Text(column), justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    console.print(table)


def _width(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> int:
    widest = [
        max(len(column), *(len(line) for row in rows for line in _cell(row[i]).split("\n")), 0)
        for i, column in enumerate(columns)
    ]
    return sum(widest) + 3 * len(widest) + 2


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return printable(str(value))
