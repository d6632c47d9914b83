"""A database's schema: migrations in order, views replaced with the code's, and no foreign code.

A run's file may come from somebody else, and a view named `accuracy` may then read this user's
files. So a file is refused when its views, macros, generated columns, defaults or checks call
anything but reading functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path

import duckdb

from store.errors import StoreBroken, StoreNewer, StoreOutdated
from store.sql_functions import find_acting_functions
from store.statements import (
    RELATIONS,
    ParsedQuery,
    find_unknown_relations,
    parse_statement,
)

_VIEWS = "SELECT view_name, sql FROM duckdb_views() WHERE NOT internal"
_MACROS = """
SELECT function_name, macro_definition, function_type = 'table_macro'
FROM duckdb_functions() WHERE NOT internal AND function_type IN ('macro', 'table_macro')
"""
# Generated columns and defaults, and what is checked when a row is written.
_COMPUTED = """
SELECT format('column {}.{}', table_name, column_name), column_default
FROM duckdb_columns() WHERE NOT internal AND column_default IS NOT NULL
UNION ALL
SELECT format('check of {}', table_name), expression
FROM duckdb_constraints() WHERE expression IS NOT NULL
"""

# A file and its log, each with time and size: they tell whether both are still what they were.
FileState = tuple[tuple[str, int, int], ...]
# The states of files that were found harmless: listing all of DuckDB's functions is slow.
_harmless: set[FileState] = set()
# Those that a writer of this process has left, with the views of this version.
_left: set[FileState] = set()


def require_harmless(connection: duckdb.DuckDBPyConnection, path: str) -> None:
    """Raise `StoreBroken` for what reaches beyond the database, or changes it."""
    state = _read_state(path)
    if state not in _harmless:
        _examine(connection, path)
        _harmless.add(state)


def note_left(path: str) -> None:
    """Remember that a writer of this process, which `migrate` has let in, has closed the file.

    It is opened again without being examined, as long as it stays as it is.
    """
    if state := _read_state(path):
        _harmless.add(state)
        _left.add(state)


def _read_state(path: str) -> FileState:
    found = ((name, Path(name).stat()) for name in (path, f"{path}.wal") if Path(name).exists())
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in found)


def _examine(connection: duckdb.DuckDBPyConnection, path: str) -> None:
    defined = [
        (f"view {name}", _view_body(sql)) for name, sql in connection.execute(_VIEWS).fetchall()
    ]
    # A bare expression is no statement; as a SELECT it can be parsed like a view.
    for name, body, of_table in connection.execute(_MACROS).fetchall():
        defined.append((f"macro {name}", body if of_table else f"SELECT {body}"))
    for what, body in connection.execute(_COMPUTED).fetchall():
        defined.append((what, f"SELECT {body}"))
    relations = connection.execute(RELATIONS).fetchall()
    for what, body in defined:
        reading = _parse_definition(body)
        beyond = find_acting_functions(reading.functions) | find_unknown_relations(
            reading.tables, relations
        )
        if beyond:
            raise StoreBroken(
                f"the {what} in {path} reaches beyond the run ({', '.join(sorted(beyond))}); "
                "nothing of this software does that. If the file is yours, drop it with DuckDB's "
                "shell"
            )


@lru_cache(maxsize=128)
def _parse_definition(body: str) -> ParsedQuery:
    """What a definition calls and reads; the files of one version have the same ones."""
    return parse_statement(body)


def _view_body(sql: str) -> str:
    """The SELECT of a CREATE VIEW as DuckDB keeps it."""
    # The tokenizer's positions count bytes. It also tells the keyword AS from a name that holds it.
    text = sql.encode()
    return next(
        text[at + 2 :].decode()
        for at, kind in duckdb.tokenize(sql)
        if kind == duckdb.token_type.keyword and text[at : at + 3].lower() == b"as "
    )


# In the order of creation: a view that reads another one comes after it.
VIEWS = (
    "standing_answers",
    "generation_examples",
    "critic_examples",
    "generation_pairs",
    "critic_pairs",
    "generation_feedback",
    "critic_feedback",
    "accuracy",
    "consensus",
    "flips",
    "label_flips",
    "label_votes",
    "pseudo_labels",
    "label_health",
    "paired_arms",
    "label_ties",
    "dissent",
    "readings",
    "progress",
    "spend",
    "debates",
    "conversations",
)

_RECORD_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version    INTEGER PRIMARY KEY,
    name       VARCHAR NOT NULL,
    applied_at TIMESTAMP NOT NULL
)
"""


@cache
def read_migrations() -> tuple[tuple[int, str, str], ...]:
    """Every migration as (version, name, SQL), oldest first.

    There is no number 009: it was withdrawn, and no version with it was released.
    """
    return tuple(sorted(_migrations()))


def _migrations() -> Iterator[tuple[int, str, str]]:
    for entry in files("store").joinpath("migrations").iterdir():
        if entry.name.endswith(".sql"):
            number, _, rest = entry.name.removesuffix(".sql").partition("_")
            yield int(number), rest, entry.read_text(encoding="utf-8")


@cache
def read_view_sql(name: str) -> str:
    """The SELECT behind a view, with its header comment."""
    return files("store").joinpath("views", f"{name}.sql").read_text(encoding="utf-8")


def migrate(connection: duckdb.DuckDBPyConnection, path: str) -> None:
    """Bring a writable database to this version; a new file gets everything.

    Raises `StoreNewer` and `StoreBroken`, and then leaves the file as it was.
    """
    known = read_migrations()
    found = check_version(connection, path)
    if found.issuperset(version for version, *_ in known) and _read_state(path) in _left:
        return
    with _transaction(connection):
        connection.execute(_RECORD_TABLE)
    for version, name, sql in known:
        if version not in found:
            # Each by itself: DuckDB cannot commit two changes of one table together.
            with _transaction(connection):
                connection.execute(sql)
                connection.execute(
                    "INSERT INTO schema_migrations VALUES (?, ?, now() AT TIME ZONE 'UTC')",
                    [version, name],
                )
    # Views belong to the software, not to the file: a changed view needs no migration.
    with _transaction(connection):
        for view in VIEWS:
            connection.execute(f"CREATE OR REPLACE VIEW {view} AS {read_view_sql(view)}")


def check_version(
    connection: duckdb.DuckDBPyConnection, path: str, *, read_only: bool = False
) -> set[int]:
    """The migrations the file has had; raises if this software cannot use it."""
    known = {version for version, *_ in read_migrations()}
    newest = max(known)
    tables = {
        name
        for (name,) in connection.execute(
            "SELECT table_name FROM duckdb_tables() WHERE NOT internal"
        ).fetchall()
    }
    if "schema_migrations" not in tables:
        # Only an empty file that may be written to is a new database.
        if tables or read_only:
            raise StoreBroken(f"{path} is a DuckDB file, but not one of a run; choose another path")
        return set()
    recorded = connection.execute("SELECT version FROM schema_migrations").fetchall()
    found = {int(version) for (version,) in recorded}
    latest = max(found, default=0)
    if latest > newest:
        raise StoreNewer(
            f"{path} has schema version {latest}, this software knows up to {newest}; "
            "upgrade the software, or use the version that wrote the file"
        )
    if read_only and known - found:
        raise StoreOutdated(
            f"{path} has schema version {latest}, this software needs {newest}; "
            "open it once for writing, which brings it up to date"
        )
    if read_only and (missing := _missing_views(connection)):
        raise StoreOutdated(
            f"{path} was written before there was a view {missing[0]}; "
            "open it once for writing, which brings it up to date"
        )
    require_harmless(connection, path)
    return found


def _missing_views(connection: duckdb.DuckDBPyConnection) -> list[str]:
    there = connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal")
    return sorted(set(VIEWS) - {name for (name,) in there.fetchall()})


class _transaction:
    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN")

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._connection.execute("ROLLBACK" if kind else "COMMIT")
