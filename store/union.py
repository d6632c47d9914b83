"""Several runs' databases in one query: tables by run, and views over all runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Self, TypeVar

import duckdb

from store import connection, schema
from store.binding import Params, literal
from store.connection import connect, seal, translate_error
from store.errors import InvalidQuery
from store.query import Query, translate_query_errors
from store.statements import build_parquet_copy

T = TypeVar("T")
_RELATIONS = (
    "SELECT table_name FROM information_schema.tables WHERE table_catalog = ? ORDER BY table_name"
)


class RunUnion:
    """Read-only. `"run-a".turns` is one run's table, `turns` that of all, with a column `run`.

        with RunUnion({"a": Path("runs/a/run.duckdb"), "b": Path("runs/b/run.duckdb")}) as runs:
            runs.query("SELECT run, count(*) FROM turns GROUP BY run").rows

    The files stay open until `close`, so none of these runs can be resumed meanwhile.
    """

    def __init__(
        self, databases: Mapping[str, Path], *, files: bool = False, may_write: Path | None = None
    ) -> None:
        """`databases` by the names to give them; `files` lets queries read other files.

        Raises what `Store.open` raises for a file that cannot be read.
        """
        self.may_read_files = files
        self._connection = duckdb.connect(
            ":memory:",
            config={
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
                "python_enable_replacements": "false",
            },
        )
        try:
            for name, path in databases.items():
                self._attach(name, path)
            self._unite(list(databases))
            # After attaching: a sealed connection opens no further file.
            seal(self._connection, files=files, may_write=may_write)
        except BaseException:
            self._connection.close()
            raise

    def query(self, sql: str, params: Params | None = None) -> Query:
        """One query over all; raises `InvalidQuery` for anything that is no reading."""
        return Query(self, sql, params)

    def rows(self, sql: str, params: Params | None = None) -> list[tuple[Any, ...]]:
        """All rows of a query. Values belong into `params`."""
        return self.fetch(lambda cursor: cursor.fetchall(), sql, params)

    def fetch(
        self,
        take: Callable[[duckdb.DuckDBPyConnection], T],
        sql: str,
        params: Params | None = None,
    ) -> T:
        """What `take` makes of the cursor that has executed a query."""
        with closing(self._connection.cursor()) as cursor:
            return take(cursor.execute(sql, params))

    def write_parquet(self, sql: str, path: Path) -> int:
        """Write the answer to a query to the file `may_write`; returns the number of rows."""
        with translate_query_errors():
            [(written,)] = self.rows(
                build_parquet_copy(sql, files=self.may_read_files), {"path": str(path)}
            )
        return int(written)

    def close(self) -> None:
        """Let go of all databases; closing twice is fine."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _attach(self, name: str, path: Path) -> None:
        connection.yield_to_writer(path)
        try:
            # Opened by itself first, so that a file that cannot be used raises the store's errors.
            with closing(connect(path, read_only=True)) as alone:
                schema.check_version(alone, str(path), read_only=True)
            self._connection.execute(f"ATTACH {literal(str(path))} AS {_quote(name)} (READ_ONLY)")
        except duckdb.BinderException as error:
            raise InvalidQuery(f"a run cannot be attached under the name {name!r}") from error
        except duckdb.Error as error:
            raise translate_error(error, path) from error

    def _unite(self, names: list[str]) -> None:
        # All files have passed `check_version`, so what the first one has, all have.
        for (relation,) in self._connection.execute(_RELATIONS, [names[0]]).fetchall():
            parts = (
                f"SELECT {literal(name)} AS run, * FROM {_quote(name)}.main.{_quote(relation)}"
                for name in names
            )
            # By name: a file of another version may have its columns in another order.
            self._connection.execute(
                f"CREATE VIEW {_quote(relation)} AS {' UNION ALL BY NAME '.join(parts)}"
            )


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
