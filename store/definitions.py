"""What a database file defines by itself: its views, macros and columns that compute something.

A run's file may come from somebody else, and a view of the name `accuracy` may then read this
user's files. So views, macros, generated columns, defaults and checks that call anything but
reading functions are refused when a file is opened.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

from store.errors import StoreBroken
from store.statements import RELATIONS, acting, parse, unknown

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

# The states of files that were found harmless: listing all of DuckDB's functions is slow.
_harmless: set[tuple[str, int, int]] = set()


def require_harmless(connection: duckdb.DuckDBPyConnection, path: str) -> None:
    """Raise `StoreBroken` for what reaches beyond the database, or changes it."""
    state = Path(path).stat()
    key = (path, state.st_mtime_ns, state.st_size)
    if key not in _harmless:
        _examine(connection, path)
        _harmless.add(key)


def _examine(connection: duckdb.DuckDBPyConnection, path: str) -> None:
    defined = [
        (f"view {name}", _view_body(sql)) for name, sql in connection.execute(_VIEWS).fetchall()
    ]
    for name, body, of_table in connection.execute(_MACROS).fetchall():
        defined.append((f"macro {name}", body if of_table else f"SELECT {body}"))
    for what, body in connection.execute(_COMPUTED).fetchall():
        defined.append((what, f"SELECT {body}"))
    relations = connection.execute(RELATIONS).fetchall()
    for what, body in defined:
        reading = parse(body)
        beyond = acting(reading.functions) | unknown(reading.tables, relations)
        if beyond:
            raise StoreBroken(
                f"the {what} in {path} reaches beyond the run ({', '.join(sorted(beyond))}); "
                "nothing of this software does that. If the file is yours, drop it with DuckDB's "
                "shell"
            )


def _view_body(sql: str) -> str:
    """The SELECT of a CREATE VIEW as DuckDB keeps it."""
    text = sql.encode()
    return next(
        text[at + 2 :].decode()
        for at, kind in duckdb.tokenize(sql)
        if kind == duckdb.token_type.keyword and text[at : at + 3].lower() == b"as "
    )
