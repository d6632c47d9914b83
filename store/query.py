"""One read-only question to a run's database, from a user who may type anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from store import schema
from store.connection import connect
from store.errors import InvalidQuery, StoreMissing

# Beyond read_only: no file, no network, no extension, and none of this can be switched back on.
_SEALED = {
    "enable_external_access": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "lock_configuration": "true",
}
_ALLOWED = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN}


@dataclass(frozen=True, slots=True)
class QueryResult:
    """Column names, their DuckDB types, and the rows."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: list[tuple[object, ...]]


def query(
    path: str | Path,
    sql: str,
    params: Sequence[object] | Mapping[str, object] | None = None,
    *,
    limit: int | None = None,
) -> QueryResult:
    """Answer one SELECT (also FROM, WITH, VALUES, DESCRIBE, EXPLAIN) over the database at `path`.

    At most `limit` rows are fetched. Raises `InvalidQuery` for anything else and for errors in the
    query, and what `Store.open` raises for an unusable file.
    """
    file = Path(path).resolve()
    if not file.exists():
        raise StoreMissing(f"no database at {file}")
    connection = connect(file, read_only=True, settings=_SEALED)
    try:
        schema.check(connection, str(file), read_only=True)
        return _answer(connection, sql, params, limit)
    except duckdb.Error as error:
        raise InvalidQuery(_explain(error)) from error
    finally:
        connection.close()


def _answer(
    connection: duckdb.DuckDBPyConnection,
    sql: str,
    params: Sequence[object] | Mapping[str, object] | None,
    limit: int | None,
) -> QueryResult:
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise InvalidQuery(f"one query at a time, not {len(statements)}")
    if statements[0].type not in _ALLOWED:
        raise InvalidQuery(
            f"only queries that read are allowed, not {statements[0].type.name}; use SELECT"
        )
    cursor = connection.execute(statements[0], params)
    if cursor.description is None:
        return QueryResult((), (), [])
    columns = tuple(str(column[0]) for column in cursor.description)
    types = tuple(str(column[1]) for column in cursor.description)
    rows = cursor.fetchall() if limit is None else cursor.fetchmany(limit)
    return QueryResult(columns, types, rows)


def _explain(error: duckdb.Error) -> str:
    text = str(error)
    if "pytz" in text:
        return (
            "the result has a column with a time zone, which needs the package pytz; "
            "cast it with ::TIMESTAMP or ::VARCHAR"
        )
    return text
