"""Records ↔ SQL: which table a record belongs to, and how many records become one statement.

DuckDB's Python client converts parameters value by value, which costs more than the insert. Here
all rows travel as one string, joined by separators that occur in none of the values, and are split
and cast inside DuckDB; that is many times faster and carries every text byte for byte.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from operator import attrgetter
from typing import TypeVar

import duckdb

from store.errors import InvalidRecord
from store.records import (
    Batch,
    Charge,
    Checkpoint,
    Dataset,
    DatasetExample,
    Diversity,
    Job,
    Likelihood,
    Model,
    Overlap,
    Price,
    Question,
    Row,
    Run,
    RunStart,
    SettingChange,
    StoredArm,
    TrainingPoint,
    Turn,
    Verdict,
    Vote,
)

R = TypeVar("R")

_COLUMNS_OF = {
    "BIGINT": "process turn_id shared_turn_id position examples seed corrected kept max_examples "
    "trained_tokens pairs",
    "INTEGER": "iteration agent round prompt_tokens completion_tokens votes voters quorum step "
    "questions",
    "BOOLEAN": "tie correct agrees exact is_extra tuned tokens_estimated",
    "DOUBLE": "latency_ms w loss learning_rate similarity input_usd output_usd cached_input_usd "
    "training_usd batch_factor value low high",
    "DATE": "read_on",
    "TIMESTAMP": "created_at started_at closed_at finished_at allowed_at changed_at",
    "JSON": "machine messages meta config versions custom_ids settings before now",
}
_CASTS = {name: cast for cast, names in _COLUMNS_OF.items() for name in names.split()}


@dataclass(frozen=True, slots=True)
class Table:
    """Where a record type is stored. `key` names the columns an upsert replaces by, if any."""

    name: str
    columns: tuple[str, ...]
    given: tuple[str, ...]
    nullable: frozenset[str]
    key: tuple[str, ...] = ()

    @property
    def insert_sql(self) -> str:
        """One INSERT with `pack`'s parameters."""
        picked = ", ".join(
            self._expression(index, column) for index, column in enumerate(self.columns, start=1)
        )
        verb = "INSERT OR REPLACE INTO" if self.key else "INSERT INTO"
        return (
            f"{verb} {self.name} ({', '.join(self.columns)}) "
            f"SELECT {picked} FROM (SELECT string_split($payload, $between_columns) AS packed)"
        )

    def _expression(self, index: int, column: str) -> str:
        value = f"unnest(string_split(packed[{index}], $between_values))"
        if column in self.nullable:
            value = f"nullif({value}, $null_mark)"
        cast = _CASTS.get(column)
        return f"{value}::{cast}" if cast else value


def _table(record: type, name: str, *key: str) -> Table:
    columns = tuple(f.name for f in fields(record))
    given = tuple(f.name for f in fields(record) if f.init)
    nullable = frozenset(f.name for f in fields(record) if "None" in str(f.type))
    return Table(name, columns, given, nullable, key)


TABLES: Mapping[type, Table] = {
    Run: _table(Run, "runs", "name"),
    RunStart: _table(RunStart, "run_starts"),
    StoredArm: _table(StoredArm, "arms", "arm"),
    Question: _table(Question, "questions", "question_id"),
    Turn: _table(Turn, "turns"),
    Vote: _table(Vote, "votes"),
    Verdict: _table(Verdict, "verdicts"),
    Dataset: _table(Dataset, "datasets", "dataset_id"),
    DatasetExample: _table(DatasetExample, "dataset_examples"),
    Diversity: _table(
        Diversity,
        "diversity",
        "iteration",
        "arm",
        "split",
        "task",
        "decoding",
        "role",
        "measure",
        "responses",
        "encoder",
    ),
    Job: _table(Job, "jobs", "job_id"),
    Model: _table(Model, "models", "model_id"),
    Overlap: _table(Overlap, "allowed_overlaps", "train_question_id", "eval_question_id"),
    Price: _table(Price, "prices", "provider", "tuned"),
    Checkpoint: _table(Checkpoint, "checkpoints", "job_id", "step"),
    Batch: _table(Batch, "batches", "digest"),
    Charge: _table(Charge, "charges", "charge_id"),
    Likelihood: _table(Likelihood, "likelihoods", "model_id", "other_id", "sha256"),
    SettingChange: _table(SettingChange, "setting_changes", "changed_at", "key"),
    TrainingPoint: _table(TrainingPoint, "training_points", "job_id", "step"),
}


def build_insert(table: Table, rows: Sequence[Row]) -> tuple[str, dict[str, str]]:
    """The statement and its parameters that insert `rows` (at least one) into `table`.

    Raises `InvalidRecord` for a missing value and for text that is not valid Unicode.
    """
    found = zip(*map(attrgetter(*table.columns), rows), strict=True)
    columns: list[Sequence[str | None]] = []
    for name, values in zip(table.columns, found, strict=True):
        if None not in values:
            columns.append(_texts(name, values))
            continue
        if name not in table.nullable:
            raise InvalidRecord(f"{table.name}.{name} is NOT NULL; give it a value")
        present = iter(_texts(name, [value for value in values if value is not None]))
        columns.append([None if value is None else next(present) for value in values])
    null_mark = _null_mark(table, columns)
    params = _join([_filled(values, null_mark) for values in columns])
    try:
        params["payload"].encode()
    except UnicodeEncodeError:
        raise _lone_surrogate(table, columns) from None
    if table.nullable:
        params["null_mark"] = null_mark
    return table.insert_sql, params


def build_records(record: type[R], rows: Iterable[tuple[object, ...]]) -> list[R]:
    """Records from tuples in the order of `Table.given`."""
    given = TABLES[record].given
    times = [index for index, name in enumerate(given) if _CASTS.get(name) == "TIMESTAMP"]
    return [record(*_with_zone(row, times)) for row in rows]


def _with_zone(row: tuple[object, ...], times: Sequence[int]) -> Iterable[object]:
    if not times:
        return row
    values = list(row)
    for index in times:
        value = values[index]
        if isinstance(value, datetime):
            values[index] = value.replace(tzinfo=UTC)
    return values


def _texts(name: str, values: Sequence[object]) -> Sequence[str]:
    cast = _CASTS.get(name)
    if cast == "TIMESTAMP":
        return [_utc(value) for value in values]
    if cast is None or cast == "JSON":
        texts = [value for value in values if isinstance(value, str)]
        if len(texts) < len(values):
            raise InvalidRecord(f"{name} takes text only, not {values!r:.200}")
        return texts
    return list(map(str, values))


def _utc(value: object) -> str:
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise InvalidRecord(f"not a time with a time zone: {value!r}; use records.utc_now()")
    if value.tzinfo is not UTC:
        value = value.astimezone(UTC)
    return str(value).removesuffix("+00:00")


def _null_mark(table: Table, columns: Sequence[Sequence[str | None]]) -> str:
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


def _filled(values: Sequence[str | None], null_mark: str) -> Sequence[str]:
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
        if value is not None and not _valid(value)
    )
    return InvalidRecord(
        f"{table.name}.{name} holds a lone surrogate in {ascii(value)[:200]}; "
        "pass text from outside through records.storable first"
    )


def _valid(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def insert_rows(connection: duckdb.DuckDBPyConnection, rows: Iterable[Row]) -> None:
    """Insert records inside the open transaction; of equal upsert keys the last one wins."""
    by_table: dict[type, list[Row]] = {}
    for row in rows:
        by_table.setdefault(type(row), []).append(row)
    for record, table in TABLES.items():
        found = by_table.get(record)
        if found:
            unique = _last_of_each_key(table, found)
            for start in range(0, len(unique), _ROWS_PER_STATEMENT):
                sql, params = build_insert(table, unique[start : start + _ROWS_PER_STATEMENT])
                connection.execute(sql, params)


def _last_of_each_key(table: Table, rows: list[Row]) -> list[Row]:
    if not table.key:
        return rows
    return list({tuple(getattr(row, name) for name in table.key): row for row in rows}.values())


_ROWS_PER_STATEMENT = 4096
