"""`open_reader`: read a run's database, whether a process is writing to it at the moment or not.

A file that no process writes to is opened read-only, and released after half a second without a
query, so that a run can start. While a process writes, DuckDB lets no other process into the file;
the writing process answers the queries then (see `store.sql_server`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar
from weakref import WeakSet

import duckdb

from store import connection, schema, sql_client
from store.binding import Params
from store.connection import connect, seal, translate_error
from store.errors import StoreClosed, StoreLocked, StoreMissing
from store.query import Query, translate_query_errors
from store.sql_client import ServerGone
from store.statements import build_parquet_copy

T = TypeVar("T")
_FETCH = 2048
_KEEP_OPEN_S = 0.5
_PATIENCE_S = 3.0


@dataclass(frozen=True, slots=True)
class QueryAccess:
    """What queries may reach beyond the database: by default everything, for this project's own.

    Sealed, they reach no network, no extension and no file, with two exceptions: all files if
    `files` is set, and the file `may_write` for `write_parquet`.
    """

    sealed: bool = False
    files: bool = False
    may_write: Path | None = None


class QuerySource(Protocol):
    """What answers queries: the file, or the process that writes to it."""

    def execute(self, sql: str, params: Params | None = None) -> duckdb.DuckDBPyConnection:
        """A cursor on the answer; the caller closes it."""
        ...

    def write_parquet(self, sql: str, path: Path) -> duckdb.DuckDBPyConnection:
        """Write the answer to a file; the cursor has one row, the number of rows."""
        ...

    def interrupt(self) -> None:
        """Stop the queries that are being answered."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...


_Ask = Callable[[QuerySource], duckdb.DuckDBPyConnection]


class Reader:
    """Queries over one run's database. Safe to use from many threads; writes nothing.

        with open_reader("runs/demo/run.duckdb") as reader:
            reader.rows("SELECT count(*) FROM turns WHERE arm = ?", ["multiagent"])

    Every query is answered from one consistent state of the database. When a run ends or starts
    between two queries, the next query goes to the file or to the process that has it then.
    """

    def __init__(self, database: Path, access: QueryAccess) -> None:
        self.path = database
        self._access = access
        self._lock = threading.RLock()
        self._source: QuerySource | None = None
        self._uses = 0
        self._idle_timer: threading.Timer | None = None
        self._closed = False

    @property
    def may_read_files(self) -> bool:
        """Whether queries that a user has typed may read the files that they name."""
        return self._access.files

    @property
    def running(self) -> bool:
        """Whether a process that writes to the database answered the latest query."""
        with self._lock:
            return isinstance(self._source, sql_client.SqlClient)

    def rows(self, sql: str, params: Params | None = None) -> list[tuple[Any, ...]]:
        """All rows of a query. Pass values in `params`."""
        return self.fetch(lambda cursor: cursor.fetchall(), sql, params)

    def query(self, sql: str, params: Params | None = None) -> Query:
        """A query that a user has typed; raises `InvalidQuery` unless it only reads."""
        return Query(self, sql, params)

    def stream(self, sql: str, params: Params | None = None) -> Iterator[tuple[Any, ...]]:
        """Like `rows`, a few thousand at a time."""
        with self._answer(lambda source: source.execute(sql, params)) as cursor:
            while batch := cursor.fetchmany(_FETCH):
                yield from batch

    def fetch(
        self,
        take: Callable[[duckdb.DuckDBPyConnection], T],
        sql: str,
        params: Params | None = None,
    ) -> T:
        """What `take` makes of the cursor that has executed a query.

        Raises what `open_reader` raises, `InvalidQuery` and DuckDB's own errors.
        """
        return self._fetch(take, lambda source: source.execute(sql, params))

    def write_parquet(self, sql: str, path: Path) -> int:
        """Write the answer to a query to the file `may_write`; returns the number of rows."""

        def count(cursor: duckdb.DuckDBPyConnection) -> int:
            [(written,)] = cursor.fetchall()
            return int(written)

        with translate_query_errors():
            return self._fetch(count, lambda source: source.write_parquet(sql, path))

    def interrupt(self) -> None:
        """Stop the queries being answered in other threads: they raise `InterruptException`."""
        with self._lock:
            source = self._source
        if source is not None:
            source.interrupt()

    def close(self) -> None:
        """Release the database; closing twice is fine."""
        with self._lock:
            self._closed = True
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _fetch(self, take: Callable[[duckdb.DuckDBPyConnection], T], ask: _Ask) -> T:
        with self._answer(ask) as cursor:
            return take(cursor)

    @contextmanager
    def _answer(self, ask: _Ask) -> Iterator[duckdb.DuckDBPyConnection]:
        cursor = self._execute(ask)
        try:
            yield cursor
        finally:
            cursor.close()
            self._end_use()

    def _execute(self, ask: _Ask) -> duckdb.DuckDBPyConnection:
        until = time.monotonic() + _PATIENCE_S
        while True:
            source = self._use()
            try:
                return ask(source)
            except ServerGone:
                # The run is ending, or another one has started: ask again, the file or the new run.
                self._end_use(gone=source)
                # It may also hang: then there is a process, and no answer.
                if time.monotonic() > until:
                    raise StoreLocked(
                        f"{self.path} is in use by a process that does not answer; "
                        "wait for it, or end it"
                    ) from None
                time.sleep(0.05)
            except BaseException:
                self._end_use()
                raise

    def _use(self) -> QuerySource:
        # Outside the lock, so that queries in other threads can end meanwhile.
        self._yield_file()
        with self._lock:
            if self._closed:
                raise StoreClosed(f"the reader of {self.path} was closed")
            if self._idle_timer is not None:
                self._idle_timer.cancel()
                self._idle_timer = None
            if self._source is None:
                self._source = _open(self.path, self._access)
            self._uses += 1
            return self._source

    def _yield_file(self) -> None:
        """Let a run that starts have the file; go on after a while, as a long query may hold it."""
        until = time.monotonic() + connection.PATIENCE_S
        while connection.is_writer_waiting(self.path) and time.monotonic() < until:
            self._close_if_idle()
            time.sleep(0.05)

    def _end_use(self, gone: QuerySource | None = None) -> None:
        with self._lock:
            self._uses -= 1
            # Another thread may have opened the next source already; only the failed one is
            # dropped.
            if gone is not None and gone is self._source:
                self._source = None
            # Only a file is released: a client holds no lock, so a run can start beside it.
            if self._uses > 0 or not isinstance(self._source, _File) or self._closed:
                return
            if connection.is_writer_waiting(self.path):
                self._release()
            else:
                self._idle_timer = threading.Timer(_KEEP_OPEN_S, self._close_if_idle)
                # A timer that still waits must not keep the process from ending.
                self._idle_timer.daemon = True
                self._idle_timer.start()

    def _close_if_idle(self) -> None:
        with self._lock:
            if self._uses == 0 and isinstance(self._source, _File):
                self._release()

    def _release(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if self._source is not None:
            self._source.close()
            self._source = None


def open_reader(
    database: str | Path,
    *,
    sealed: bool = False,
    files: bool = False,
    may_write: Path | None = None,
) -> Reader:
    """Read the database of a run; `sealed` for queries that a user has typed (see `QueryAccess`).

    Raises `StoreMissing`, `StoreBroken`, `StoreNewer`, `StoreOutdated`, or, where a process writes
    to the file and does not answer, `StoreLocked`.
    """
    reader = Reader(Path(database).resolve(), QueryAccess(sealed, files, may_write))
    try:
        reader.rows("SELECT 1")
    except BaseException:
        reader.close()
        raise
    return reader


class _File:
    """A database file, held open for reading, so that no process writes to it."""

    def __init__(self, path: Path, access: QueryAccess) -> None:
        self._connection = connect(path, read_only=True)
        self._files = access.files
        self._cursors: WeakSet[duckdb.DuckDBPyConnection] = WeakSet()
        try:
            # Before anything in the file is examined: it may come from somebody else.
            if access.sealed:
                seal(self._connection, files=access.files, may_write=access.may_write)
            schema.check_version(self._connection, str(path), read_only=True)
        except duckdb.Error as error:
            self._connection.close()
            raise translate_error(error, path) from error
        except BaseException:
            self._connection.close()
            raise

    def execute(self, sql: str, params: Params | None = None) -> duckdb.DuckDBPyConnection:
        # A cursor per query: queries of several threads run side by side, and each can be stopped.
        cursor = self._connection.cursor()
        self._cursors.add(cursor)
        try:
            return cursor.execute(sql, params)
        except BaseException:
            cursor.close()
            raise

    def write_parquet(self, sql: str, path: Path) -> duckdb.DuckDBPyConnection:
        return self.execute(build_parquet_copy(sql, files=self._files), {"path": str(path)})

    def interrupt(self) -> None:
        sql_client.interrupt_cursors(self._cursors)

    def close(self) -> None:
        self._connection.close()


def _open(path: Path, access: QueryAccess) -> QuerySource:
    """The file, or the process that has it; waits for a process that is just starting."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        if not path.exists():
            raise StoreMissing(f"no database at {path}")
        connection.yield_to_writer(path)
        try:
            return _File(path, access)
        except StoreLocked:
            # A process writes to the file. It leaves its address once it answers; until then it may
            # be starting, so this tries again for a while.
            client = _client(path)
            if client is not None:
                return client
            if not sql_client.address_path(path).exists() or time.monotonic() > until:
                raise
        time.sleep(0.05)


def _client(path: Path) -> sql_client.SqlClient | None:
    """A client of the process that has the file, None if the process does not answer."""
    address = sql_client.read_address(path)
    if address is None:
        return None
    client = sql_client.SqlClient(address)
    try:
        # A killed run leaves its address behind; only an answer shows that somebody listens.
        client.execute("SELECT 1").close()
    except ServerGone:
        return None
    return client
