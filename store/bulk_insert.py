"""Many records into one INSERT statement, and rows back into records.

DuckDB's Python client converts parameters value by value, which costs more than the insert. So all
rows travel as one string, joined by separators that occur in none of the values, and are split and
cast inside DuckDB. That carries every text byte for byte and needs no package beside DuckDB; a
registered pyarrow table is faster in batches of thousands, slower in the small ones that a run
writes (`benchmarks/inserts.py`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import TypeVar

import duckdb

from store.errors import InvalidRecord
from store.tables import COLUMN_TYPES, TABLES, Record, Table

R = TypeVar("R")
# A statement's payload is one string in memory, so the rows in it are bounded.
_ROWS_PER_STATEMENT = 4096


def insert_rows(connection: duckdb.DuckDBPyConnection, rows: Iterable[Record]) -> None:
    """Insert records inside the open transaction; of equal upsert keys the last one wins."""
    by_table: dict[type, list[Record]] = {}
    for row in rows:
        by_table.setdefault(type(row), []).append(row)
    # In the order of TABLES: the order that the records come in does not change the file.
    for record, table in TABLES.items():
        found = by_table.get(record)
        if found:
            unique = _last_of_each_key(table, found)
            for start in range(0, len(unique), _ROWS_PER_STATEMENT):
                sql, params = build_insert(table, unique[start : start + _ROWS_PER_STATEMENT])
                connection.execute(sql, params)


def build_insert(table: Table, rows: Sequence[Record]) -> tuple[str, dict[str, str]]:
    """The statement and its parameters that insert `rows` (at least one) into `table`.

    Raises `InvalidRecord` for a missing value and for text that is not valid Unicode.
    """
    found = zip(*map(attrgetter(*table.columns), rows), strict=True)
    columns: list[Sequence[str | None]] = []
    for name, values in zip(table.columns, found, strict=True):
        if None not in values:
            columns.append(_format_values(name, values))
            continue
        if name not in table.nullable:
            raise InvalidRecord(f"{table.name}.{name} is NOT NULL; give it a value")
        # The formatters take no None, so NULLs are taken out and put back in their places.
        present = iter(_format_values(name, [value for value in values if value is not None]))
        columns.append([None if value is None else next(present) for value in values])
    null_mark = _choose_null_mark(table, columns)
    params = _join([_fill_nulls(values, null_mark) for values in columns])
    try:
        # Checked once for the whole payload; only a failure looks for the value to name.
        params["payload"].encode()
    except UnicodeEncodeError:
        raise _lone_surrogate(table, columns) from None
    if table.nullable:
        params["null_mark"] = null_mark
    return _insert_sql(table), params


def build_records(record: type[R], rows: Iterable[tuple[object, ...]]) -> list[R]:
    """Records from tuples in the order of `Table.given`."""
    given = TABLES[record].given
    times = [index for index, name in enumerate(given) if COLUMN_TYPES.get(name) == "TIMESTAMP"]
    return [record(*_add_zone(row, times)) for row in rows]


def _insert_sql(table: Table) -> str:
    """One INSERT with the parameters of `build_insert`."""
    picked = ", ".join(
        _column_sql(table, index, name) for index, name in enumerate(table.columns, start=1)
    )
    # Turns, votes and verdicts have no index; `store.writer` keeps duplicates of them out.
    verb = "INSERT OR REPLACE INTO" if table.key else "INSERT INTO"
    return (
        f"{verb} {table.name} ({', '.join(table.columns)}) "
        f"SELECT {picked} FROM (SELECT string_split($payload, $between_columns) AS packed)"
    )


def _column_sql(table: Table, index: int, column: str) -> str:
    # DuckDB unnests all columns of one SELECT side by side, so the values at the same place of each
    # list become one row.
    value = f"unnest(string_split(packed[{index}], $between_values))"
    if column in table.nullable:
        value = f"nullif({value}, $null_mark)"
    kind = COLUMN_TYPES.get(column)
    return f"{value}::{kind}" if kind else value


def _add_zone(row: tuple[object, ...], times: Sequence[int]) -> Iterable[object]:
    if not times:
        return row
    # Stored times have no zone; a record's have one, so that they compare with `utc_now()`.
    values = list(row)
    for index in times:
        value = values[index]
        if isinstance(value, datetime):
            values[index] = value.replace(tzinfo=UTC)
    return values


def _format_values(name: str, values: Sequence[object]) -> Sequence[str]:
    kind = COLUMN_TYPES.get(name)
    if kind == "TIMESTAMP":
        return [_format_utc(value) for value in values]
    if kind is None or kind == "JSON":
        texts = [value for value in values if isinstance(value, str)]
        if len(texts) < len(values):
            raise InvalidRecord(f"{name} takes text only, not {values!r:.200}")
        return texts
    return list(map(str, values))


def _format_utc(value: object) -> str:
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise InvalidRecord(f"not a time with a time zone: {value!r}; use records.utc_now()")
    # Columns hold UTC without a zone; DuckDB would read an offset in another way.
    if value.tzinfo is not UTC:
        value = value.astimezone(UTC)
    return str(value).removesuffix("+00:00")


def _choose_null_mark(table: Table, columns: Sequence[Sequence[str | None]]) -> str:
    """A text that stands for NULL and is no value of a nullable column."""
    nullable = [
        values
        for name, values in zip(table.columns, columns, strict=True)
        if name in table.nullable
    ]
    for number in itertools.count():
        mark = f"\x00null{number}"
        if not any(mark in values for values in nullable):
            return mark
    raise AssertionError


def _fill_nulls(values: Sequence[str | None], null_mark: str) -> Sequence[str]:
    return [null_mark if value is None else value for value in values]


def _join(columns: Sequence[Sequence[str]]) -> dict[str, str]:
    everything = "".join(["".join(values) for values in columns])
    for number in itertools.count():
        # No value contains them, and none can arise across a value's end: what follows there is
        # the first character of a separator, which occurs at no later place in one.
        rest = f"{number}\x1e" if number else ""
        between_values, between_columns = f"\x1f{rest}", f"\x1d{rest}"
        if between_values not in everything and between_columns not in everything:
            return {
                "payload": between_columns.join([between_values.join(v) for v in columns]),
                "between_values": between_values,
                "between_columns": between_columns,
            }
    raise AssertionError


def _lone_surrogate(table: Table, columns: Sequence[Sequence[str | None]]) -> InvalidRecord:
    name, value = next(
        (name, value)
        for name, values in zip(table.columns, columns, strict=True)
        for value in values
        if value is not None and not _is_valid(value)
    )
    return InvalidRecord(
        f"{table.name}.{name} holds a lone surrogate in {ascii(value)[:200]}; "
        "pass text from outside through store.content.make_storable first"
    )


def _is_valid(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _last_of_each_key(table: Table, rows: list[Record]) -> list[Record]:
    if not table.key:
        return rows
    # A dict keeps the place of a key's first row and the value of its last one.
    return list({tuple(getattr(row, name) for name in table.key): row for row in rows}.values())
