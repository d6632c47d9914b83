"""A consistent copy of a database that a process is writing to, made by that process on request.

A reader leaves a request file beside the database. The writing process holds its writing thread
still, copies the database and its log (committed rows are in one of them), and renames the request
to say so. The reader opens the copy and removes it afterwards.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb

from store.errors import StoreClosed, StoreError, StoreLocked, WriteFailed
from store.ledger import Store

_EVERY_S = 0.2
_PATIENCE_S = 60.0
# In a process of its own: POSIX locks belong to the process, so opening the database here a second
# time and closing it would give up the lock that keeps other writers out.
_COPY = """
import os, shutil, sys
source, copy = sys.argv[1:]
shutil.copyfile(source, copy)
if os.path.exists(source + ".wal"):
    shutil.copyfile(source + ".wal", copy + ".wal")
"""


@contextmanager
def request_snapshot(database: Path, patience_s: float = _PATIENCE_S) -> Iterator[Path]:
    """The path of a copy of `database`, made now by the process that writes to it.

    Raises `StoreLocked` if that process does not answer within `patience_s` seconds, `WriteFailed`
    if it could not make the copy. The copy is gone after the block.
    """
    stem = database.with_name(f".snapshot-{secrets.token_hex(8)}")
    request, ready, failed = (_with(stem, end) for end in (".request", ".ready", ".failed"))
    copy = _with(stem, ".duckdb")
    try:
        request.touch()
        until = time.monotonic() + patience_s
        while not ready.exists():
            if failed.exists():
                raise WriteFailed(failed.read_text(encoding="utf-8"))
            if time.monotonic() > until:
                raise StoreLocked(
                    f"the process that writes to {database} made no snapshot within "
                    f"{patience_s:.0f} s; wait for it, or end it"
                )
            time.sleep(_EVERY_S / 4)
        yield copy
    except OSError as error:
        # WriteFailed is an OSError too, and says already what is wrong.
        if isinstance(error, StoreError):
            raise
        raise WriteFailed(f"cannot ask for a snapshot of {database}: {error}") from error
    finally:
        for path in (request, ready, failed, copy, _with(stem, ".duckdb.wal")):
            path.unlink(missing_ok=True)


@contextmanager
def answer_snapshot_requests(store: Store) -> Iterator[None]:
    """Answer requests for snapshots of `store` while the block runs."""
    for left in store.path.parent.glob(".snapshot-*"):
        with suppress(OSError):
            left.unlink()
    ended = threading.Event()
    thread = threading.Thread(target=_answer, args=(store, ended), name="snapshots", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _answer(store: Store, ended: threading.Event) -> None:
    while not ended.wait(_EVERY_S):
        for request in store.path.parent.glob(".snapshot-*.request"):
            try:
                _make(store, request.with_suffix(".duckdb"))
                # The reader sees a rename whole, and it fails where the reader has given up.
                os.replace(request, request.with_suffix(".ready"))
            except (StoreClosed, FileNotFoundError):
                continue  # the run ends, or the reader has given up
            except Exception as error:
                with suppress(OSError):
                    request.with_suffix(".failed").write_text(str(error), encoding="utf-8")
                request.unlink(missing_ok=True)


def _make(store: Store, copy: Path) -> None:
    def work(_: duckdb.DuckDBPyConnection) -> None:
        command = [sys.executable, "-I", "-S", "-c", _COPY, str(store.path), str(copy)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = done.stderr.strip().rpartition("\n")[2]
            raise WriteFailed(f"no snapshot of {store.path}: {reason}")

    # On the writing thread: nothing is committed meanwhile, so file and log fit together.
    store.transact(work)


def _with(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)
