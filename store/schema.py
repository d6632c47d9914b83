"""The database's own version: migrations applied in order, views replaced with the code's."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files

import duckdb

from store.definitions import require_harmless
from store.errors import StoreBroken, StoreNewer, StoreOutdated

VIEWS = (
    "generation_examples",
    "critic_examples",
    "accuracy",
    "consensus",
    "flips",
    "label_flips",
    "pseudo_labels",
    "label_health",
    "paired_arms",
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


def migrations() -> list[tuple[int, str, str]]:
    """Every migration as (version, name, SQL), oldest first."""
    return sorted(_migrations())


def _migrations() -> Iterator[tuple[int, str, str]]:
    for entry in files("store").joinpath("migrations").iterdir():
        if entry.name.endswith(".sql"):
            number, _, rest = entry.name.removesuffix(".sql").partition("_")
            yield int(number), rest, entry.read_text(encoding="utf-8")


def view_sql(name: str) -> str:
    """The SELECT behind a view, with its header comment."""
    return files("store").joinpath("views", f"{name}.sql").read_text(encoding="utf-8")


def prepare(connection: duckdb.DuckDBPyConnection, path: str) -> None:
    """Bring a writable database to this version; a new file gets everything.

    Raises `StoreNewer` and `StoreBroken`, and then leaves the file as it was.
    """
    known = migrations()
    found = check(connection, path)
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
    with _transaction(connection):
        for view in VIEWS:
            connection.execute(f"CREATE OR REPLACE VIEW {view} AS {view_sql(view)}")


def check(connection: duckdb.DuckDBPyConnection, path: str, *, read_only: bool = False) -> set[int]:
    """The migrations the file has had; raises if this software cannot use it."""
    known = {version for version, *_ in migrations()}
    newest = max(known)
    tables = {
        name
        for (name,) in connection.execute(
            "SELECT table_name FROM duckdb_tables() WHERE NOT internal"
        ).fetchall()
    }
    if "schema_migrations" not in tables:
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
