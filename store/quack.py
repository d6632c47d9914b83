"""DuckDB's own client-server extension, Quack: where it is installed, and asking a server.

The binaries come as packages (`pip install 'multiagent-finetuning[live]'`); nothing is downloaded
when a run is read. See https://duckdb.org/docs/current/quack/overview.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from weakref import WeakSet

import duckdb

from store.binding import Params, bind
from store.errors import InvalidQuery, LiveUnavailable
from store.statements import into_parquet, single

_EXTENSIONS = ("httpfs", "quack")
_ASK = "FROM quack_query($uri, $sql, token := $token)"
_GONE = (
    "Could not connect",
    "Failed to send message",
    "Authentication failed",
    "Invalid connection id",
    "Connection reset",
)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a running process answers, and the token it wants."""

    uri: str
    token: str
    process: int


def address_file(database: Path) -> Path:
    """Where the process that writes to `database` says how to reach it."""
    return database.with_name("live.json")


def write_address(database: Path, address: Address) -> None:
    """Leave the address for this user's readers; nobody else can read it."""
    path = address_file(database)
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(asdict(address), file)


def read_address(database: Path) -> Address | None:
    """The address that a process left, None where there is none (or only half of one yet)."""
    try:
        found = json.loads(address_file(database).read_text(encoding="utf-8"))
        return Address(str(found["uri"]), str(found["token"]), int(found["process"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def unavailable() -> str | None:
    """Why Quack cannot be used here, with the remedy; None where it can."""
    try:
        for name in _EXTENSIONS:
            _binary(name)
    except LiveUnavailable as error:
        return str(error)
    return None


def load(connection: duckdb.DuckDBPyConnection) -> None:
    """Load Quack into a connection's database; raises `LiveUnavailable`."""
    for name in _EXTENSIONS:
        binary = _binary(name)
        try:
            connection.load_extension(str(binary))
        except duckdb.Error as error:
            raise LiveUnavailable(f"DuckDB cannot load {binary}: {error}") from error


def _binary(name: str) -> Path:
    package = f"duckdb_extension_{name}"
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise LiveUnavailable(
            f"reading a run while it is going on needs the package {package}; "
            "install it with: pip install 'multiagent-finetuning[live]'"
        )
    home = Path(spec.submodule_search_locations[0]) / "extensions"
    binary = home / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"
    if not binary.is_file():
        there = ", ".join(sorted(path.name for path in home.glob("v*"))) or "no version"
        raise LiveUnavailable(
            f"the package {package} is for DuckDB {there}, and DuckDB {duckdb.__version__} is "
            f"installed; install {package}=={duckdb.__version__}"
        )
    return binary


@cache
def _client_side() -> duckdb.DuckDBPyConnection:
    """An empty database with the extension, one for all clients of a process: loading is slow."""
    connection = duckdb.connect(
        ":memory:",
        config={
            "autoinstall_known_extensions": "false",
            "python_enable_replacements": "false",
            # Quack looks for a secret first; the user's own are none of its business.
            "allow_persistent_secrets": "false",
        },
    )
    load(connection)
    return connection


class ServerGone(Exception):
    """The server does not answer any more, or is another one."""


class Client:
    """Asks the process that writes to a database; every query is answered there, from one state.

    Quack's ATTACH scans one remote table per query only, so whole queries are sent instead.
    """

    def __init__(self, address: Address) -> None:
        """Raises `LiveUnavailable` without the extension; connects at the first query only."""
        self.address = address
        self._connection = _client_side().cursor()
        self._cursors: WeakSet[duckdb.DuckDBPyConnection] = WeakSet()

    def execute(self, sql: str, params: Params | None = None) -> duckdb.DuckDBPyConnection:
        """A cursor on the answer; the caller closes it.

        Raises `ServerGone`, `InvalidQuery` for what is no reading, and DuckDB's errors.
        """
        return self._ask(_ASK, bind(sql, params))

    def write_parquet(self, sql: str, path: Path) -> duckdb.DuckDBPyConnection:
        """Have a query answered into a file of this process; the cursor has the number of rows."""
        return self._ask(into_parquet(_ASK), single(sql), path=str(path))

    def interrupt(self) -> None:
        """Stop waiting for answers."""
        interrupt(self._cursors)

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()

    def _ask(self, statement: str, sql: str, **more: str) -> duckdb.DuckDBPyConnection:
        wanted = {"uri": self.address.uri, "sql": sql, "token": self.address.token, **more}
        cursor = self._connection.cursor()
        self._cursors.add(cursor)
        try:
            return cursor.execute(statement, wanted)
        except duckdb.Error as error:
            cursor.close()
            raise translate(error) from error
        except BaseException:
            cursor.close()
            raise


def interrupt(cursors: Iterable[duckdb.DuckDBPyConnection]) -> None:
    """Stop what these cursors are executing; those that are closed have nothing to stop."""
    for cursor in list(cursors):
        with suppress(duckdb.ConnectionException):
            cursor.interrupt()


def translate(error: duckdb.Error) -> Exception:
    """What an answer from the server means: `ServerGone`, `InvalidQuery`, or DuckDB's own error."""
    text = re.split(r"\n\nLINE \d: FROM quack_query\(", str(error))[0]
    text = text.removeprefix("Invalid Input Error: ")
    if any(sign in text for sign in _GONE):
        return ServerGone(text)
    if "Authorization failed" in text:
        return InvalidQuery(
            "a run that is going on answers one query that reads at a time (SELECT, FROM, WITH, "
            "DESCRIBE, EXPLAIN), over its own tables; for PIVOT and other functions, ask a "
            "snapshot of it (--snapshot)"
        )
    return type(error)(text)
