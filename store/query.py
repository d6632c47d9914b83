"""One query that reads, and its answer as rows, a data frame, an Arrow table or a relation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import duckdb

from store.binding import Params
from store.errors import InvalidQuery, PackageMissing
from store.statements import RELATIONS, ParsedQuery, find_unknown_relations, parse_reading

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class QueryResult:
    """Column names, their DuckDB types, and the rows."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: list[tuple[Any, ...]]


class QueryExecutor(Protocol):
    """What executes a query: a store, a reader or several runs together."""

    @property
    def may_read_files(self) -> bool:
        """Whether queries may read the files that they name."""
        ...

    def fetch(
        self,
        take: Callable[[duckdb.DuckDBPyConnection], T],
        sql: str,
        params: Params | None = None,
    ) -> T:
        """What `take` makes of the cursor that has executed `sql`."""
        ...


class Query:
    """One SELECT (also FROM, WITH, VALUES, DESCRIBE, EXPLAIN), executed when its answer is taken.

        store.query("SELECT agent, count(*) AS turns FROM turns GROUP BY agent").polars()

    Every form executes the query again. Each raises `InvalidQuery` for an error in the query, and
    `PackageMissing` where its package is not installed.
    """

    def __init__(self, database: QueryExecutor, sql: str, params: Params | None = None) -> None:
        """Raises `InvalidQuery` for anything but a single statement that reads."""
        self._database = database
        self._reading = parse_reading(sql, files=database.may_read_files)
        self._params = params

    @property
    def rows(self) -> list[tuple[Any, ...]]:
        """Plain rows."""
        return self._take(lambda cursor: cursor.fetchall())

    def result(self, limit: int | None = None) -> QueryResult:
        """Columns, types and at most `limit` rows."""
        return self._take(lambda cursor: _result(cursor, limit))

    def frame(self) -> pandas.DataFrame | polars.DataFrame | pyarrow.Table:
        """The answer in the first of pandas, polars and Arrow whose packages are installed."""
        if _has("pandas", "numpy"):
            return self.pandas()
        return self.polars() if _has("polars", "pyarrow") else self.arrow()

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

    def relation(self) -> duckdb.DuckDBPyRelation:
        """The answer as a DuckDB relation of its own, for more SQL; needs no other package.

        store.query("FROM accuracy").relation().aggregate("arm, max(accuracy)").show()
        """
        found = self.result()
        connection = duckdb.connect()
        # Of two columns with one name, the second is called by its place too.
        columns = [
            _quote(f"{name}_{place}" if name in found.columns[:place] else name) + f" {kind}"
            for place, (name, kind) in enumerate(zip(found.columns, found.types, strict=True))
        ]
        connection.execute(f"CREATE TABLE answer ({', '.join(columns)})")
        if found.rows:
            # One list for each column: row by row, DuckDB inserts a thousand times more slowly.
            lists = ", ".join(f"unnest(?::{kind}[])" for kind in found.types)
            values = [list(column) for column in zip(*found.rows, strict=True)]
            connection.execute(f"INSERT INTO answer SELECT {lists}", values)
        return connection.table("answer")

    def _take(self, take: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        with translate_query_errors():
            # DuckDB takes a name that is no relation for a file's.
            if not self._database.may_read_files:
                require_relations(self._database, self._reading)
            return self._database.fetch(take, self._reading.sql, self._params)


def make_frame(
    columns: Mapping[str, Sequence[object]],
) -> pandas.DataFrame | polars.DataFrame | pyarrow.Table:
    """A frame of what is no query's answer, by the rule of `Query.frame`."""
    if _has("pandas", "numpy"):
        import pandas

        return pandas.DataFrame(columns)
    if _has("polars", "pyarrow"):
        import polars

        return polars.DataFrame(columns)
    _require("pyarrow")
    import pyarrow

    return pyarrow.table(columns)


def require_relations(database: QueryExecutor, reading: ParsedQuery) -> None:
    """Raise `InvalidQuery` where a name in FROM is no relation: DuckDB would look for a file."""
    # Only a name with a dot can be a file, so most queries need no look at the catalog.
    if not find_unknown_relations(reading.tables, ()):
        return
    relations = database.fetch(lambda cursor: cursor.fetchall(), RELATIONS)
    if beyond := find_unknown_relations(reading.tables, relations):
        raise InvalidQuery(
            f"no table or view {', '.join(sorted(beyond))}, and a query may not read files; "
            "allow it with --allow-files"
        )


@contextmanager
def translate_query_errors() -> Iterator[None]:
    """DuckDB's errors about a query become `InvalidQuery`."""
    try:
        yield
    except duckdb.Error as error:
        raise InvalidQuery(_explain_error(error)) from error


def _result(cursor: duckdb.DuckDBPyConnection, limit: int | None) -> QueryResult:
    if cursor.description is None:
        return QueryResult((), (), [])
    columns = tuple(str(column[0]) for column in cursor.description)
    types = tuple(str(column[1]) for column in cursor.description)
    rows = cursor.fetchall() if limit is None else cursor.fetchmany(limit)
    return QueryResult(columns, types, rows)


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _has(*packages: str) -> bool:
    return all(find_spec(package) is not None for package in packages)


def _require(*packages: str) -> None:
    # Checked before the query is executed, which may take minutes.
    for package in packages:
        if find_spec(package) is None:
            raise PackageMissing(
                f"this form of an answer needs the package {package}; install it with: "
                "pip install 'multiagent-finetuning[frames]', or take .rows"
            )


def _explain_error(error: duckdb.Error) -> str:
    text = str(error)
    # DuckDB converts times with a zone by pytz, which it does not install itself.
    if "pytz" in text:
        return (
            "the result has a column with a time zone, which needs the package pytz; "
            "cast it with ::TIMESTAMP or ::VARCHAR"
        )
    return text
