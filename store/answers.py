"""One query that reads, and its answer as rows, Arrow, pandas or polars."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import duckdb

from store.binding import Params
from store.errors import InvalidQuery, PackageMissing

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

T = TypeVar("T")
_READING = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN}


@dataclass(frozen=True, slots=True)
class QueryResult:
    """Column names, their DuckDB types, and the rows."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: list[tuple[Any, ...]]


class Queried(Protocol):
    """Something that executes a query and hands the cursor on."""

    def fetch(
        self,
        take: Callable[[duckdb.DuckDBPyConnection], T],
        sql: str,
        params: Params | None = None,
    ) -> T:
        """What `take` makes of the cursor that has executed `sql`."""
        ...


class Query:
    """One SELECT (also FROM, WITH, VALUES, DESCRIBE, EXPLAIN), asked when its answer is taken.

    Every form asks anew; each raises `InvalidQuery` for an error in the query, and `PackageMissing`
    where its package is not installed.
    """

    def __init__(self, database: Queried, sql: str, params: Params | None = None) -> None:
        """Raises `InvalidQuery` for anything but a single statement that reads."""
        self._database = database
        self._sql = single(sql)
        self._params = params

    @property
    def rows(self) -> list[tuple[Any, ...]]:
        """Plain rows."""
        return self._take(lambda cursor: cursor.fetchall())

    def result(self, limit: int | None = None) -> QueryResult:
        """Columns, types and at most `limit` rows."""
        return self._take(lambda cursor: _result(cursor, limit))

    def arrow(self) -> pyarrow.Table:
        """An Arrow table."""
        _require("pyarrow")
        return self._take(lambda cursor: cursor.to_arrow_table())

    def pandas(self) -> pandas.DataFrame:
        """A pandas data frame."""
        _require("pandas", "numpy")
        return self._take(lambda cursor: cursor.df())

    def polars(self) -> polars.DataFrame:
        """A polars data frame."""
        _require("polars", "pyarrow")
        return self._take(lambda cursor: cursor.pl())

    def _take(self, take: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        with explained():
            return self._database.fetch(take, self._sql, self._params)


@contextmanager
def explained() -> Iterator[None]:
    """DuckDB's errors about a query become `InvalidQuery`."""
    try:
        yield
    except duckdb.Error as error:
        raise InvalidQuery(_explained(error)) from error


def single(sql: str) -> str:
    """`sql` without what follows its first statement; raises `InvalidQuery` unless that reads."""
    try:
        with closing(_parser().cursor()) as parser:
            statements = parser.extract_statements(sql)
    except duckdb.Error as error:
        raise InvalidQuery(str(error)) from error
    kinds = [statement.type for statement in statements]
    if len(kinds) == 2 and not any(statement.query for statement in statements):
        raise InvalidQuery("PIVOT needs its values named: PIVOT … ON column IN (…)")
    if len(kinds) != 1:
        raise InvalidQuery(f"one query at a time, not {len(kinds)}")
    if _first_word(sql) == "pragma":  # DuckDB takes some of them for a SELECT
        raise InvalidQuery("only queries that read are allowed, not PRAGMA; use SELECT")
    if kinds[0] not in _READING:
        raise InvalidQuery(f"only queries that read are allowed, not {kinds[0].name}; use SELECT")
    return split(sql)[0]


def into_parquet(sql: str) -> str:
    """The statement that writes the answer to a query to the file `$path`; raises like `single`."""
    return f"COPY (\n{single(sql)}\n) TO $path (FORMAT parquet, USE_TMP_FILE false)"


def split(text: str) -> list[str]:
    """The statements of `text`, without their semicolons; what follows the last one comes last."""
    encoded = text.encode()
    ends = [at for at, _ in duckdb.tokenize(text) if encoded[at : at + 1] == b";"]
    pieces, start = [], 0
    for end in ends:
        pieces.append(encoded[start:end].decode())
        start = end + 1
    return [*pieces, encoded[start:].decode()]


def _first_word(sql: str) -> str:
    start = duckdb.tokenize(sql)[0][0]
    return re.split(r"\W", sql.encode()[start:].decode(), maxsplit=1)[0].lower()


@cache
def _parser() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(":memory:", config={"autoinstall_known_extensions": "false"})


def _result(cursor: duckdb.DuckDBPyConnection, limit: int | None) -> QueryResult:
    if cursor.description is None:
        return QueryResult((), (), [])
    columns = tuple(str(column[0]) for column in cursor.description)
    types = tuple(str(column[1]) for column in cursor.description)
    rows = cursor.fetchall() if limit is None else cursor.fetchmany(limit)
    return QueryResult(columns, types, rows)


def _require(*packages: str) -> None:
    for package in packages:
        if find_spec(package) is None:
            raise PackageMissing(
                f"this form of an answer needs the package {package}; install it with: "
                "pip install 'multiagent-finetuning[frames]', or take .rows"
            )


def _explained(error: duckdb.Error) -> str:
    text = str(error)
    if "pytz" in text:
        return (
            "the result has a column with a time zone, which needs the package pytz; "
            "cast it with ::TIMESTAMP or ::VARCHAR"
        )
    return text
