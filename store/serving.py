"""A run that is going on answers its readers: DuckDB's Quack server in the writing process.

It listens on 127.0.0.1 only, wants a token that is made anew for every start of the run, and
answers queries that read, one statement at a time: its authorization function parses every
statement and lets nothing but a SELECT over the run's own relations through. What is read is what
has been committed, and a debate's last turn, votes and verdicts are one commit.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import duckdb

from store import quack
from store.binding import literal
from store.errors import LiveUnavailable
from store.ledger import Store
from store.quack import Address

# Functions in FROM that read nothing but the database itself; all others are refused, among them
# those that read files, run text as SQL, checkpoint, or stop this very server.
READING_FUNCTIONS = (
    "duckdb_columns",
    "duckdb_constraints",
    "duckdb_functions",
    "duckdb_indexes",
    "duckdb_schemas",
    "duckdb_tables",
    "duckdb_types",
    "duckdb_views",
    "generate_series",
    "generate_subscripts",
    "json_each",
    "json_tree",
    "pragma_show",
    "pragma_table_info",
    "range",
    "repeat",
    "summary",
    "unnest",
)
# `EXPLAIN` of a SELECT reads; DuckDB's serializer takes the SELECT only.
_EXPLAIN = r"^\s*explain(\s+analyze)?\s+"
# Quack calls it by name on a connection of its own, so it lives in a database beside the run's.
_POLICY = f"""
CREATE OR REPLACE MACRO serving.main.reads_only(session, statement) AS (
    SELECT coalesce(
        (parsed ->> '$.error') = 'false'
            AND json_array_length(parsed, '$.statements') = 1
            AND list_has_all(
                [{", ".join(f"'{name}'" for name in READING_FUNCTIONS)}],
                list_transform(parsed ->> '$..function.function_name', lambda name: lower(name))
            )
            AND len(parsed ->> '$..function.function_name')
                = len(list_filter(parsed ->> '$..type', lambda kind: kind = 'TABLE_FUNCTION')),
        false)
    FROM (
        SELECT json_serialize_sql(
            regexp_replace(statement::VARCHAR, '{_EXPLAIN}', '', 'i')::VARCHAR
        ) AS parsed
    )
)
"""


@contextmanager
def served(store: Store) -> Iterator[Address]:
    """Let other processes read `store` while the block runs.

    From here on the store's own DuckDB reaches no file but its database. Raises `LiveUnavailable`
    where the extension is missing or the server does not start.
    """
    with closing(store.cursor()) as connection, closing(_reserved_port()) as port:
        uri = f"quack:127.0.0.1:{port.getsockname()[1]}"
        address = Address(uri, secrets.token_hex(32), os.getpid())
        _start(connection, address)
        try:
            quack.write_address(store.path, address)
            yield address
        finally:
            quack.address_file(store.path).unlink(missing_ok=True)
            with suppress(duckdb.Error):
                connection.execute("CALL quack_stop($uri)", {"uri": uri})


def in_the_shell(database: Path, address: Address) -> str:
    """How to ask with DuckDB's own shell, which reads the token from the file of the run."""
    return (
        "INSTALL quack; LOAD quack; "
        f"SET VARIABLE token = (SELECT token FROM {literal(str(quack.address_file(database)))}); "
        f"FROM quack_query('{address.uri}', 'FROM progress', token := getvariable('token'));"
    )


def _start(connection: duckdb.DuckDBPyConnection, address: Address) -> None:
    quack.load(connection)
    try:
        connection.execute("ATTACH IF NOT EXISTS ':memory:' AS serving")
        connection.execute(_POLICY)
        connection.execute(
            "SET GLOBAL quack_authorization_function = 'serving.main.reads_only'",
        )
        connection.execute("SET GLOBAL enable_external_access = false")
        connection.execute(
            "CALL quack_serve($uri, token := $token)",
            {"uri": address.uri, "token": address.token},
        )
    except duckdb.Error as error:
        raise LiveUnavailable(f"the run cannot be read while it is going on: {error}") from error


def _reserved_port() -> socket.socket:
    """A socket that holds a free port, without listening.

    Quack shares its port with whoever asks for the same, so two runs must never pick one; the
    system gives nobody else a port that is held.
    """
    held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if hasattr(socket, "SO_REUSEPORT"):
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind(("127.0.0.1", 0))
    return held
