"""A run in progress answers its readers: a small SQL server in the process that writes.

It listens on a Unix socket that only this user can open (`store.sql_client`), takes one query per
connection, executes single statements that read (`store.statements`) and no other, and stops a
query whose reader has disconnected. Readers see committed rows only, and a debate's last turn,
votes and verdicts are one commit.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import select
import shlex
import shutil
import socket
import socketserver
import struct
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import duckdb
from duckdb.sqltypes import DuckDBPyType

from store import sql_client
from store.errors import InvalidQuery, LiveUnavailable, StoreClosed
from store.ledger import Store
from store.query import require_relations
from store.sql_client import SocketAddress
from store.statements import MAX_CHARACTERS, parse_reading

# A reader that waits costs a thread, a query that is computed costs memory: hence two limits.
READERS = 64
AT_ONCE = 8
# A reader that sends or takes nothing for so long is dropped; it would hold a place for ever.
_REQUEST_S = 10.0
_ANSWER_S = 60.0
_ENDING_S = 10.0
_WATCH_S = 0.2
# A character has up to four bytes.
_MAX_BODY = 4 * MAX_CHARACTERS
# The system cuts longer names of sockets off.
_MAX_SOCKET_NAME = 100
# Parquet has no such types, or none as exact; they travel as text.
_AS_TEXT = {"hugeint", "uhugeint", "interval", "time with time zone"}


@contextmanager
def serve_readers(store: Store) -> Iterator[SocketAddress]:
    """Let other processes of this user read `store` while the block runs.

        with Store.open("run.duckdb") as store, serve_readers(store) as address:
            print(format_curl_command(address))

    From then on the store's own DuckDB reaches no file but its database. Raises `LiveUnavailable`
    where the system has no Unix sockets or the server does not start.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise LiveUnavailable("this system has no Unix sockets")
    home = _home(store.path)
    try:
        with _listening(store, home) as server:
            address = SocketAddress(str(server.server_address), os.getpid())
            sql_client.write_address(store.path, address)
            try:
                yield address
            finally:
                sql_client.address_path(store.path).unlink(missing_ok=True)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def format_curl_command(address: SocketAddress) -> str:
    """A shell command that queries the run with curl."""
    return f"curl --unix-socket {shlex.quote(address.socket)} --data 'FROM progress' http://run/csv"


def _home(database: Path) -> Path:
    """The folder of the socket and of answers being sent, emptied of what a killed run left."""
    home = database.with_name(".live")
    try:
        shutil.rmtree(home, ignore_errors=True)
        # Only this user can enter, which guards the socket and the answers inside.
        home.mkdir(mode=0o700)
    except OSError as error:
        raise LiveUnavailable(f"the run cannot be read while it is running: {error}") from error
    return home


@contextmanager
def _listening(store: Store, home: Path) -> Iterator[_Server]:
    with _socket_place(home) as place:
        try:
            _confine_to_database(store, home)
            server = _Server(place, store, home)
        except (OSError, duckdb.Error) as error:
            raise LiveUnavailable(f"the run cannot be read while it is running: {error}") from error
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def _socket_place(home: Path) -> Iterator[Path]:
    """The socket's path: beside the database, or in a temporary folder if that is too long."""
    if len(os.fsencode(home / "sql")) <= _MAX_SOCKET_NAME:
        yield home / "sql"
        return
    with tempfile.TemporaryDirectory(prefix="society-", ignore_cleanup_errors=True) as folder:
        yield Path(folder) / "sql"


def _confine_to_database(store: Store, home: Path) -> None:
    with closing(store.cursor()) as connection:
        # Asked first, because the directories cannot be set once external access is off.
        if connection.execute("SELECT current_setting('enable_external_access')").fetchone() == (
            True,
        ):
            connection.execute("SET GLOBAL allowed_directories = ?", [[str(home)]])
            connection.execute("SET GLOBAL enable_external_access = false")


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Accepts connections of this user, at most `READERS` at a time, each in a thread."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = READERS

    def __init__(self, place: Path, store: Store, home: Path) -> None:
        super().__init__(str(place), _Handler)
        place.chmod(0o600)
        self._store = store
        self._home = home
        self._readers = threading.BoundedSemaphore(READERS)
        self._turns = threading.BoundedSemaphore(AT_ONCE)
        self._computing: dict[socket.socket, duckdb.DuckDBPyConnection] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        for name, work in (("sql-server", self.serve_forever), ("sql-watch", self._watch)):
            threading.Thread(target=work, name=name, daemon=True).start()

    @property
    def ending(self) -> bool:
        """Whether the run is ending, so that errors are not the query's."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Accept no more connections, stop running queries, and wait for the threads."""
        self._stopping.set()
        self.shutdown()
        self.server_close()
        self._interrupt(list(self._computing))
        # When all places are taken here, no handler is at work any more.
        for _ in range(READERS):
            if not self._readers.acquire(timeout=_ENDING_S):
                break

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether a connection gets a thread; the others are refused at once."""
        if not _is_own_user(request):
            return False
        if self._readers.acquire(blocking=False):
            return True
        with suppress(OSError):
            request.sendall(b"HTTP/1.0 503 Busy\r\n\r\ntoo many readers at once\n")
        return False

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._readers.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a reader that breaks off."""

    @contextmanager
    def answer(self, sql: str, asked: socket.socket, *, csv: bool) -> Iterator[tuple[bytes, Path]]:
        """The columns as a line of JSON, and the file of the rows; `csv` for a CSV file.

        Raises `InvalidQuery` and DuckDB's errors.
        """
        reading = parse_reading(sql)
        # DuckDB computes these on the stack of its thread; an overflow ends the whole process.
        if reading.recursive:
            raise InvalidQuery(
                f"{', '.join(sorted(reading.recursive))} can end a process on a deeply nested "
                "text, which a run in progress does not risk; ask a snapshot of it: "
                "society sql NAME --snapshot"
            )
        require_relations(self._store, reading)
        path = self._home / secrets.token_hex(8)
        try:
            # Only so many queries at once, as each may take all the memory that DuckDB is given.
            with (
                self._turns,
                closing(self._store.cursor()) as cursor,
                self._watch_query(asked, cursor),
            ):
                columns = _write(cursor, reading.sql, path, csv=csv)
            # Sent outside the block above: a slow reader must not hold one of the few turns.
            yield json.dumps(columns).encode() + b"\n", path
        finally:
            path.unlink(missing_ok=True)

    @contextmanager
    def _watch_query(
        self, asked: socket.socket, cursor: duckdb.DuckDBPyConnection
    ) -> Iterator[None]:
        with self._lock:
            # A query that began after `stop` had interrupted the others would run to its end.
            if self._stopping.is_set():
                raise StoreClosed("the run is ending")
            self._computing[asked] = cursor
        try:
            yield
        finally:
            with self._lock:
                del self._computing[asked]

    def _watch(self) -> None:
        """Stop the queries whose readers have disconnected."""
        while not self._stopping.wait(_WATCH_S):
            self._interrupt([asked for asked in list(self._computing) if _has_disconnected(asked)])

    def _interrupt(self, readers: list[socket.socket]) -> None:
        with self._lock:
            sql_client.interrupt_cursors(
                [self._computing[each] for each in readers if each in self._computing]
            )


class _Handler(BaseHTTPRequestHandler):
    """One query, and its answer."""

    server: _Server
    timeout = _REQUEST_S

    def do_POST(self) -> None:
        """`/answer` for `store.sql_client`, `/csv` for other tools."""
        if self.path not in ("/answer", "/csv"):
            self._send_error(http.client.NOT_FOUND, "LookupError", "there are /answer and /csv")
            return
        length = self.headers.get("Content-Length", "")
        # The digits are counted first, as int() raises an error of its own for thousands of them.
        if not length.isdecimal() or len(length) > 9 or int(length) > _MAX_BODY:
            wanted = f"send the query as the body, of at most {_MAX_BODY:,} bytes"
            self._send_error(http.client.REQUEST_ENTITY_TOO_LARGE, "InvalidQuery", wanted)
            return
        try:
            sql = self.rfile.read(int(length)).decode("utf-8")
            with self.server.answer(sql, self.connection, csv=self.path == "/csv") as answer:
                self._send(*answer)
        except (InvalidQuery, UnicodeDecodeError, duckdb.Error) as error:
            if self.server.ending:
                self._send_error(
                    http.client.SERVICE_UNAVAILABLE, "StoreClosed", "the run is ending"
                )
            else:
                self._send_error(http.client.BAD_REQUEST, type(error).__name__, str(error))
        except StoreClosed as error:
            self._send_error(http.client.SERVICE_UNAVAILABLE, "StoreClosed", str(error))

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: the terminal shows the run's progress."""

    def _send(self, columns: bytes, rows: Path) -> None:
        self.connection.settimeout(_ANSWER_S)
        head = b"" if self.path == "/csv" else columns
        # The length is announced, so that the reader notices an answer that is cut off.
        with rows.open("rb") as file:
            self.send_response(http.client.OK)
            self.send_header("Content-Length", str(len(head) + os.fstat(file.fileno()).st_size))
            self.end_headers()
            self.wfile.write(head)
            shutil.copyfileobj(file, self.wfile, 1 << 20)

    def _send_error(self, status: int, kind: str, text: str) -> None:
        body = json.dumps({"kind": kind, "text": text}).encode() + b"\n"
        with suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)


def _write(
    cursor: duckdb.DuckDBPyConnection, sql: str, path: Path, *, csv: bool
) -> list[tuple[str, str]]:
    """Write the answer to a query; gives the columns' names and types."""
    answer = cursor.sql(sql)
    columns = [(name, str(kind)) for name, kind in zip(answer.columns, answer.types, strict=True)]
    if csv:
        answer.write_csv(str(path), header=True)
        return columns
    # Parquet wants unique names, and a query may give the same name twice: numbered names travel,
    # and the reader puts the real ones back.
    taken = []
    for place, (_, kind) in enumerate(columns, start=1):
        portable = _portable(answer.types[place - 1])
        taken.append(f"#{place}{'' if portable == kind else f'::{portable}'} AS c{place}")
    if any("::" in each for each in taken):
        answer = answer.project(", ".join(taken))
    answer.write_parquet(str(path))
    return columns


def _portable(kind: DuckDBPyType) -> str:
    """The type in which a value travels."""
    if kind.id in _AS_TEXT:
        return "VARCHAR"
    if kind.id not in ("list", "array", "struct", "union", "map"):
        return str(kind)
    parts = [
        (name, _portable(part)) for name, part in kind.children if isinstance(part, DuckDBPyType)
    ]
    if kind.id == "list":
        return f"{parts[0][1]}[]"
    if kind.id == "array":
        return f"{parts[0][1]}[{dict(kind.children)['size']}]"
    if kind.id == "map":
        return f"MAP({parts[0][1]}, {parts[1][1]})"
    # The first part of a union is the tag; of a row, no part has a name.
    named = [f"{_quote_name(name)} {part}" for name, part in parts if name]
    return f"{kind.id.upper()}({', '.join(named)})" if named else str(kind)


def _quote_name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _is_own_user(connection: socket.socket) -> bool:
    """Whether this user or root connects; a system that cannot tell still guards the folder."""
    # Linux tells process, user and group of the other end.
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", found)[1] in (0, os.getuid())


def _has_disconnected(connection: socket.socket) -> bool:
    try:
        # A closed connection is readable and gives nothing; peeking leaves a request unread.
        readable, _, _ = select.select([connection], [], [], 0)
        return bool(readable) and connection.recv(1, socket.MSG_PEEK) == b""
    except (OSError, ValueError):
        return True
