"""Text in CSV cells: a spreadsheet runs what begins like a formula, so that is quoted as text.

The attack: https://owasp.org/www-community/attacks/CSV_Injection. Spreadsheets take a leading
apostrophe for "this is text". What is a plain number is harmless and stays one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import duckdb

FORMULA = "[=+\\-@\\t\\r\\n\uff1d\uff0b\uff0d\uff20]"
"""What begins a formula: also the full-width forms, and white space that is skipped before one."""

NUMBER = "[+-]?([0-9]+\\.?[0-9]*|\\.[0-9]+)([eE][+-]?[0-9]+)?"
_FORMULA, _NUMBER = re.compile(FORMULA), re.compile(NUMBER)

_QUOTED = (
    f"CASE WHEN regexp_matches(TEXT::VARCHAR, '^{FORMULA}') "
    f"AND NOT regexp_full_match(TEXT::VARCHAR, '{NUMBER}') "
    "THEN '''' || TEXT ELSE TEXT::VARCHAR END"
)


def cell(value: object) -> object:
    """A value for a cell: text that begins like a formula gets an apostrophe before it."""
    if not isinstance(value, str) or not _FORMULA.match(value) or _NUMBER.fullmatch(value):
        return value
    return f"'{value}"


def quoted(cursor: duckdb.DuckDBPyConnection, query: str, params: Mapping[str, object]) -> str:
    """A query whose rows are those of `query`, all text in them as `cell` gives it."""
    described = cursor.execute(f"DESCRIBE {query}", dict(params)).fetchall()
    texts = [
        '"{}"'.format(str(name).replace('"', '""'))
        for name, kind, *_ in described
        if str(kind).startswith(("VARCHAR", "ENUM", "JSON"))
    ]
    replaced = ", ".join(f"{_QUOTED.replace('TEXT', text)} AS {text}" for text in texts)
    return f"SELECT * {f'REPLACE ({replaced})' if texts else ''} FROM ({query})"
