"""Opening a database file: settings, DuckDB's errors as the store's, and who goes first.

DuckDB lets a writer in only when no other process has the file open, and with enough readers one
always has. So a run that starts leaves a mark beside its database until it has the file. Readers
that see the mark let go of the file when their queries are answered, and wait. A mark counts for
two seconds after it was last renewed, so that a killed start keeps no reader waiting.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import duckdb

from store.errors import StoreBroken, StoreError, StoreLocked, WriteFailed

PATIENCE_S = 3.0
# How long a writer waits for another writer, and for readers, which let go after their queries.
_FOR_WRITER_S = 1.0
_FOR_READERS_S = 30.0
_MARK_COUNTS_S = 2.0
_EVERY_S = 0.05


def connect(
    file: Path,
    *,
    read_only: bool,
    memory_limit: str | None = None,
    settings: Mapping[str, str] | None = None,
) -> duckdb.DuckDBPyConnection:
    """A bare connection with this project's settings; DuckDB's errors become the store's."""
    check_path(file)
    # No extension comes from the network, and no Python variable stands in for a missing table.
    config: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "python_enable_replacements": "false",
        **(settings or {}),
    }
    if memory_limit is not None:
        config["memory_limit"] = memory_limit
    if not read_only:
        # Each checkpoint rewrites the last row group, so with the default of 16 MB a run would
        # write every text about eight times.
        config["checkpoint_threshold"] = "128MB"
    try:
        return duckdb.connect(str(file), read_only=read_only, config=config)
    except duckdb.Error as error:
        failure = translate_error(error, file)
        if read_only and "is in use by" in str(failure):
            failure = StoreLocked(
                f"{failure}; or read a copy, which the run makes on request: "
                "society sql NAME --snapshot"
            )
        raise failure from error


def check_path(file: Path) -> None:
    """Raise `StoreError` for a path that DuckDB would understand otherwise."""
    if "?" in str(file):
        raise StoreError(
            f"{file} cannot hold a database: DuckDB ends a path at '?'; rename the folder, or keep "
            "the run in another one (--runs)"
        )


def connect_for_writing(file: Path, memory_limit: str | None) -> duckdb.DuckDBPyConnection:
    """A connection for the file's one writer; raises `StoreLocked` if others keep the file."""
    started = time.monotonic()
    try:
        while True:
            try:
                return connect(file, read_only=False, memory_limit=memory_limit)
            except StoreLocked as error:
                waited = time.monotonic() - started
                by_writer = waited > _FOR_WRITER_S and not _is_only_read(file, error)
                if by_writer or waited > _FOR_READERS_S:
                    raise
            announce_writer(file)
            time.sleep(_EVERY_S)
    finally:
        # A mark that stayed would keep readers out until it is too old to count.
        withdraw_writer(file)


def announce_writer(database: Path) -> None:
    """Leave the mark that a run waits for the file, or renew it."""
    # In a folder that cannot be written to, readers are not told, and the writer waits longer.
    with suppress(OSError):
        _mark(database).touch()
        os.utime(_mark(database))


def withdraw_writer(database: Path) -> None:
    """Take the mark away: the run has its file, or has given up."""
    with suppress(OSError):
        _mark(database).unlink()


def is_writer_waiting(database: Path) -> bool:
    """Whether a run waits for the file."""
    try:
        age = time.time() - _mark(database).stat().st_mtime
    except OSError:
        return False
    # Without abs, a mark from the future (a clock was set back) would count until that moment.
    return abs(age) < _MARK_COUNTS_S


def yield_to_writer(database: Path, patience_s: float = PATIENCE_S) -> None:
    """Return once no run waits for the file; raises `StoreLocked` after `patience_s` seconds."""
    until = time.monotonic() + patience_s
    while is_writer_waiting(database):
        if time.monotonic() > until:
            raise StoreLocked(f"a run that starts is waiting for {database}; ask again in a moment")
        time.sleep(_EVERY_S)


def seal(
    connection: duckdb.DuckDBPyConnection, *, files: bool = False, may_write: Path | None = None
) -> None:
    """Let no query reach a file, the network or an extension, and let nothing undo that.

    `files` leaves the file system open, `may_write` one file that the process itself writes. A
    connection that is sealed already stays as it is.
    """
    # A locked setting cannot be set again, not even to the value that it has.
    if connection.execute("SELECT current_setting('lock_configuration')").fetchone() == (True,):
        return
    for name in ("autoload_known_extensions", "allow_community_extensions"):
        connection.execute(f"SET {name} = false")
    if not files:
        if may_write is not None:
            # Before external access is off: DuckDB takes no path after that.
            connection.execute("SET allowed_paths = ?", [[str(may_write)]])
        connection.execute("SET enable_external_access = false")
    # Last, as it locks what is set above.
    connection.execute("SET lock_configuration = true")


def translate_error(error: duckdb.Error, file: Path) -> StoreError:
    """The store's error for what DuckDB says about opening `file`."""
    # The class of DuckDB's error does not tell a lock from a full disk; only the text does.
    text = str(error)
    if "Conflicting lock" in text or "lock on file" in text:
        holder = re.search(r"held in (.+?) \(PID (\d+)\)", text)
        who = f"process {holder[2]} ({holder[1]})" if holder else "another process"
        return StoreLocked(f"{file} is in use by {who}; wait until it ends, or end it")
    if "different configuration" in text:
        return StoreLocked(f"this process has {file} open already, with other settings")
    if any(word in text for word in ("No space left", "File too large", "Permission denied")):
        return WriteFailed(f"cannot write to {file}: {text}")
    if isinstance(error, duckdb.IOException | duckdb.FatalException | duckdb.InternalException):
        return StoreBroken(f"{file} is not a readable database: {text}")
    return StoreError(f"cannot open {file}: {text}")


def _is_only_read(file: Path, error: StoreLocked) -> bool:
    """Whether the processes that have the file open only read it, and will let go of it."""
    if "is in use by" not in str(error):
        return False
    try:
        # A reader gets in beside other readers, but never beside a writer.
        connect(file, read_only=True).close()
    except StoreLocked:
        return False
    return True


def _mark(database: Path) -> Path:
    return database.with_name(f".{database.name}.starting")
