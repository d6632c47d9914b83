"""Queries to the process that writes to a database: where it listens, and what it sends back.

It listens on a Unix socket in a folder that only its user can enter. So the file system decides who
may connect, before a byte is read; no other user of the machine and no web site can. A query is the
body of an HTTP request. The answer is one line of JSON, the columns' names and types, and then the
rows as a Parquet file.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from weakref import WeakSet, finalize

import duckdb

from store.binding import Params, bind, literal
from store.errors import InvalidQuery, WriteFailed

_CONNECT_S = 5.0


@dataclass(frozen=True, slots=True)
class SocketAddress:
    """The Unix socket on which a running process answers."""

    socket: str
    process: int


class ServerGone(Exception):
    """The process does not answer (any more), or has too many readers at the moment."""


def address_path(database: Path) -> Path:
    """The file in which the process that writes to `database` says where it listens."""
    return database.with_name("live.json")


def write_address(database: Path, address: SocketAddress) -> None:
    """Leave the address for readers."""
    path = address_path(database)
    # Made anew with O_EXCL, so that it is no link and no file that other users can read.
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(asdict(address), file)


def read_address(database: Path) -> SocketAddress | None:
    """The address that a process wrote; None if the file is missing or not complete yet."""
    try:
        found = json.loads(address_path(database).read_text(encoding="utf-8"))
        return SocketAddress(str(found["socket"]), int(found["process"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


class SqlClient:
    """Sends queries to the process that writes to a database, which answers each from one state."""

    def __init__(self, address: SocketAddress) -> None:
        self.address = address
        self._cursors: WeakSet[duckdb.DuckDBPyConnection] = WeakSet()
        self._waiting: set[socket.socket] = set()
        self._stopped: set[socket.socket] = set()
        self._lock = threading.Lock()

    def execute(self, sql: str, params: Params | None = None) -> duckdb.DuckDBPyConnection:
        """A cursor on the whole answer, received before this returns; the caller closes it.

        Raises `ServerGone`, `InvalidQuery` for a query that does more than read, and DuckDB's
        errors.
        """
        return self._execute("", sql, params)

    def write_parquet(self, sql: str, path: Path) -> duckdb.DuckDBPyConnection:
        """Write the answer to a file of this process; the cursor has the number of rows."""
        into = f" TO {literal(str(path))} (FORMAT parquet, USE_TMP_FILE false)"
        return self._execute(into, sql, None)

    def interrupt(self) -> None:
        """Stop waiting for answers; the process stops computing them."""
        with self._lock:
            for waiting in self._waiting:
                self._stopped.add(waiting)
                with suppress(OSError):
                    waiting.shutdown(socket.SHUT_RDWR)
        interrupt_cursors(self._cursors)

    def close(self) -> None:
        """Nothing to close: each query has a connection of its own."""

    def _execute(self, into: str, sql: str, params: Params | None) -> duckdb.DuckDBPyConnection:
        columns, rows = self._receive(bind(sql, params))
        cursor = _local().cursor()
        # DuckDB reads the file while rows are fetched, so it goes with the cursor, not before.
        finalize(cursor, _remove, rows)
        self._cursors.add(cursor)
        try:
            answer = _restore_types(cursor, columns, rows)
            return cursor.execute(f"COPY ({answer}){into}" if into else answer)
        except BaseException:
            cursor.close()
            raise

    def _receive(self, sql: str) -> tuple[list[tuple[str, str]], Path]:
        """The columns as (name, type), and the file of the rows."""
        with self._open_socket() as connection:
            connection.request("POST", "/answer", sql.encode())
            response = connection.getresponse()
            if response.status != http.client.OK:
                raise _failure(response.status, response.read().decode("utf-8", "replace"))
            columns = [(str(name), str(kind)) for name, kind in json.loads(response.readline())]
            return columns, _save_rest(response)

    @contextmanager
    def _open_socket(self) -> Iterator[http.client.HTTPConnection]:
        # The name is never looked up: the socket below is connected already.
        connection = http.client.HTTPConnection("run")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked:
            try:
                # Connecting must be quick; the answer may take as long as the query.
                asked.settimeout(_CONNECT_S)
                asked.connect(self.address.socket)
                asked.settimeout(None)
                connection.sock = asked
                with self._lock:
                    self._waiting.add(asked)
                yield connection
            except (OSError, http.client.HTTPException) as error:
                # `interrupt` has shut the socket down, which is no failure of the run.
                if asked in self._stopped:
                    raise duckdb.InterruptException("INTERRUPT Error: Interrupted!") from None
                if isinstance(error, WriteFailed):
                    raise
                raise ServerGone(str(error)) from error
            finally:
                with self._lock:
                    self._waiting.discard(asked)
                    self._stopped.discard(asked)


def interrupt_cursors(cursors: Iterable[duckdb.DuckDBPyConnection]) -> None:
    """Stop what these cursors are executing; closed cursors are ignored."""
    # A copy, as other threads may add a cursor meanwhile.
    for cursor in list(cursors):
        with suppress(duckdb.ConnectionException):
            cursor.interrupt()


def _failure(status: int, said: str) -> Exception:
    # Too many readers, or the run ends: the reader asks again in either case.
    if status == http.client.SERVICE_UNAVAILABLE:
        return ServerGone(said)
    try:
        found = json.loads(said)
        kind, text = str(found["kind"]), str(found["text"])
    except (ValueError, KeyError, TypeError):
        return ServerGone(f"HTTP {status}: {said[:200]}")
    # The error becomes what DuckDB would have raised here, if it is one of DuckDB's.
    known = getattr(duckdb, kind, None)
    if isinstance(known, type) and issubclass(known, duckdb.Error):
        return known(text)
    return InvalidQuery(text)


def _save_rest(response: http.client.HTTPResponse) -> Path:
    """The rest of an answer as a file; raises IncompleteRead where it is cut off."""
    descriptor, name = tempfile.mkstemp(prefix="society-", suffix=".parquet")
    path = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            try:
                shutil.copyfileobj(response, file, 1 << 20)
            except OSError as error:
                # A broken connection is the run's end, not a full disk of this reader.
                if not isinstance(error, ConnectionError):
                    raise WriteFailed(f"cannot keep an answer in {path}: {error}") from error
                raise
        # Fewer bytes than announced: the run ended while it was answering.
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
    except BaseException:
        _remove(path)
        raise
    return path


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _restore_types(
    cursor: duckdb.DuckDBPyConnection, columns: list[tuple[str, str]], rows: Path
) -> str:
    """The SELECT that gives the columns back the names and types that Parquet does not keep."""
    source = f"read_parquet({literal(str(rows))})"
    kept = [str(kind) for _, kind, *_ in cursor.execute(f"FROM {source} LIMIT 0").description or []]
    # By place and not by name, as two columns may have the same name.
    taken = []
    for place, ((name, kind), found) in enumerate(zip(columns, kept, strict=True), start=1):
        cast = "" if kind == found else f"::{kind}"
        quoted = name.replace('"', '""')
        taken.append(f'#{place}{cast} AS "{quoted}"')
    return f"SELECT {', '.join(taken)} FROM {source}"


@cache
def _local() -> duckdb.DuckDBPyConnection:
    """An empty database that opens the answers, one for all clients of a process."""
    return duckdb.connect(
        ":memory:",
        config={
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "python_enable_replacements": "false",
        },
    )
