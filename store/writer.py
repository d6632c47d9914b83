"""The single writer: one thread, and one transaction for all appends that wait at that moment."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field

import duckdb

from store.errors import InvalidRecord, StoreClosed, StoreError, WriteFailed
from store.guard import Guard, KeySet
from store.packing import TABLES, Table, pack
from store.records import Row

Work = Callable[[duckdb.DuckDBPyConnection], None]
_ROWS_PER_STATEMENT = 4096
_ROWS_PER_COMMIT = 16384
_BAD_VALUE = (
    duckdb.ConstraintException,
    duckdb.ConversionException,
    duckdb.InvalidInputException,
    duckdb.OutOfRangeException,
)


@dataclass(slots=True)
class _Append:
    rows: Sequence[Row] = ()
    work: Work | None = None
    removes: bool = False
    done: Future[None] = field(default_factory=Future)
    claimed: list[tuple[KeySet, Hashable]] = field(default_factory=list)


class Writer:
    """Commits appends in order. After one write failed, every later append fails the same way."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._guard = Guard(connection)
        self._queue: queue.SimpleQueue[_Append | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._failure: WriteFailed | None = None
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def submit(self, rows: Sequence[Row]) -> Future[None]:
        """Queue rows for one transaction; the future is done once they are committed."""
        return self._put(_Append(rows=rows))

    def submit_work(self, work: Work, *, removes: bool = False) -> Future[None]:
        """Queue `work` to run in a transaction of its own, on the writing thread.

        `removes`: it removes turns, votes or verdicts.
        """
        return self._put(_Append(work=work, removes=removes))

    def close(self) -> None:
        """Commit what is queued and stop; closing twice is fine."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _put(self, append: _Append) -> Future[None]:
        # A running future cannot be cancelled: rows handed over are written, whoever stops waiting.
        append.done.set_running_or_notify_cancel()
        with self._lock:
            if self._closed:
                raise StoreClosed("the store was closed")
            self._queue.put(append)
        return append.done

    def _run(self) -> None:
        while True:
            waiting, last = self._take()
            self._commit_group([append for append in waiting if append.work is None])
            for append in waiting:
                if append.work is not None:
                    self._commit_group([append])
            if last:
                return

    def _take(self) -> tuple[list[_Append], bool]:
        first = self._queue.get()
        if first is None:
            return [], True
        waiting = [first]
        rows = len(first.rows)
        while rows < _ROWS_PER_COMMIT:
            try:
                more = self._queue.get_nowait()
            except queue.Empty:
                break
            if more is None:
                return waiting, True
            waiting.append(more)
            rows += len(more.rows)
        return waiting, False

    def _commit_group(self, group: Sequence[_Append]) -> None:
        accepted = [append for append in group if self._accept(append)]
        if not accepted:
            return
        try:
            self._transact(accepted)
        except Exception as error:
            for append in accepted:
                self._guard.release(append.claimed)
            failure = self._translate(error)
            if len(accepted) > 1 and isinstance(failure, InvalidRecord):
                for append in accepted:
                    self._commit_group([append])
                return
            for append in accepted:
                append.done.set_exception(failure)
        else:
            if any(append.removes for append in accepted):
                self._guard.forget()
            for append in accepted:
                append.done.set_result(None)

    def _accept(self, append: _Append) -> bool:
        try:
            if self._failure is not None:
                raise WriteFailed(*self._failure.args) from self._failure
            append.claimed = self._guard.claim(append.rows)
        except Exception as error:
            append.done.set_exception(self._translate(error))
            return False
        return True

    def _transact(self, accepted: Sequence[_Append]) -> None:
        self._connection.execute("BEGIN")
        try:
            insert(self._connection, (row for append in accepted for row in append.rows))
            for append in accepted:
                if append.work is not None:
                    append.work(self._connection)
            self._connection.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        with suppress(duckdb.Error):  # a failed COMMIT has rolled back already
            self._connection.execute("ROLLBACK")

    def _translate(self, error: Exception) -> Exception:
        if isinstance(error, _BAD_VALUE):
            return InvalidRecord(f"the store refuses a value: {error}")
        if isinstance(error, duckdb.Error):
            self._failure = WriteFailed(
                f"the store could not write: {error}; free the disk and run again, "
                "everything committed before is intact"
            )
            return self._failure
        return error if isinstance(error, StoreError) else _with_context(error)


def insert(connection: duckdb.DuckDBPyConnection, rows: Iterable[Row]) -> None:
    """Insert records inside the open transaction; of equal upsert keys the last one wins."""
    by_table: dict[type, list[Row]] = {}
    for row in rows:
        by_table.setdefault(type(row), []).append(row)
    for record, table in TABLES.items():
        found = by_table.get(record)
        if found:
            unique = _last_of_each_key(table, found)
            for start in range(0, len(unique), _ROWS_PER_STATEMENT):
                sql, params = pack(table, unique[start : start + _ROWS_PER_STATEMENT])
                connection.execute(sql, params)


def _last_of_each_key(table: Table, rows: list[Row]) -> list[Row]:
    if not table.key:
        return rows
    return list({tuple(getattr(row, name) for name in table.key): row for row in rows}.values())


def _with_context(error: Exception) -> Exception:
    error.add_note("raised while the store was writing; nothing of this append was stored")
    return error
