"""A new database as a copy of an empty one: a sixth of the cost, from the second on.

An empty database takes every migration in turn, and DuckDB commits each by itself. A process that
makes many databases would repeat that work for the same file.
"""

from __future__ import annotations

import os
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

from store import schema
from store.connection import check_path, connect
from store.errors import StoreError

_blank: bytes | None = None


def place_blank(file: Path) -> bool:
    """Put a database of this version without a row at `file`, whole or not at all.

    Returns False where that can't be done: something is there, be it only a log, or the folder
    takes no new file.
    """
    global _blank
    if file.exists() or file.with_name(f"{file.name}.wal").exists():
        return False
    # What is wrong with the folder is said by DuckDB, which then makes the file itself.
    with (
        suppress(OSError, StoreError, duckdb.Error),
        TemporaryDirectory(prefix=".society-", dir=file.parent) as folder,
    ):
        check_path(file)
        made = Path(folder) / file.name
        if _blank is None:
            with closing(connect(made, read_only=False)) as connection:
                schema.migrate(connection, str(made))
            # Not while it is open: a process that closes a file loses its locks on it.
            _blank = made.read_bytes()
        else:
            made.write_bytes(_blank)
        # A link, since a rename would replace what another process has put there meanwhile.
        os.link(made, file)
        schema.note_left(str(file))
        return True
    return False
