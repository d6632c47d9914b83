"""A run that starts goes before readers: it leaves a mark beside its database until it has it.

DuckDB lets a writer in only when nobody has the file open, and with enough readers somebody always
has. Readers that see the mark let go of the file when their queries are answered, and wait. A mark
counts for two seconds after it was last renewed, so that a killed start keeps nobody waiting.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import duckdb

from store.connection import connect
from store.errors import StoreLocked

PATIENCE_S = 3.0
# A writer waits so long for another one, and longer for readers, which let go after their queries.
_WRITER_S = 1.0
_READERS_S = 30.0
_COUNTS_S = 2.0
_EVERY_S = 0.05


def connect_for_writing(file: Path, memory_limit: str | None) -> duckdb.DuckDBPyConnection:
    """The database as its one writer has it; raises `StoreLocked` if others keep it."""
    started = time.monotonic()
    try:
        while True:
            try:
                return connect(file, read_only=False, memory_limit=memory_limit)
            except StoreLocked as error:
                waited = time.monotonic() - started
                if waited > _READERS_S or (waited > _WRITER_S and not _is_only_read(file, error)):
                    raise
            announce(file)
            time.sleep(_EVERY_S)
    finally:
        withdraw(file)


def announce(database: Path) -> None:
    """Leave the mark, or renew it; where nothing can be written, readers do not know."""
    with suppress(OSError):
        _mark(database).touch()
        os.utime(_mark(database))


def withdraw(database: Path) -> None:
    """Take the mark away: the run has its file, or has given up."""
    with suppress(OSError):
        _mark(database).unlink()


def is_announced(database: Path) -> bool:
    """Whether a run is waiting for the file."""
    try:
        age = time.time() - _mark(database).stat().st_mtime
    except OSError:
        return False
    return abs(age) < _COUNTS_S


def give_way(database: Path, patience_s: float = PATIENCE_S) -> None:
    """Wait while a run is waiting for the file; raises `StoreLocked` after `patience_s` seconds."""
    until = time.monotonic() + patience_s
    while is_announced(database):
        if time.monotonic() > until:
            raise StoreLocked(f"{database} is waited for by a run that starts; ask again then")
        time.sleep(_EVERY_S)


def _is_only_read(file: Path, error: StoreLocked) -> bool:
    """Whether those who have the file read it, and will let go of it."""
    if "is in use by" not in str(error):
        return False
    try:
        connect(file, read_only=True).close()
    except StoreLocked:
        return False
    return True


def _mark(database: Path) -> Path:
    return database.with_name(f".{database.name}.starting")
