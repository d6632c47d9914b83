"""The single writer: one thread, one transaction for all queued appends, and no duplicates.

The big tables have no index. Instead the writer keeps the keys of stored turns and votes by stage,
and of verdicts altogether, and reads what the file holds when it first writes to a stage.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field

import duckdb

from store.bulk_insert import insert_rows
from store.errors import DuplicateRecord, InvalidRecord, StoreClosed, StoreError, WriteFailed
from store.records import IN_STAGE, StageKey, Turn, Verdict, Vote
from store.tables import Record

KeySet = tuple[str, StageKey | None]
"""A table, and which stage of it; None: all of it."""

_KEYS = {
    "turns": f"SELECT turn_id FROM turns WHERE {IN_STAGE}",
    "votes": f"SELECT question_id, round FROM votes WHERE {IN_STAGE}",
    "verdicts": "SELECT turn_id FROM verdicts",
}


class DuplicateGuard:
    """The keys of stored turns, votes and verdicts. Used by the writing thread only."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._known: dict[KeySet, set[Hashable]] = {}

    def claim(self, rows: Iterable[Record]) -> list[tuple[KeySet, Hashable]]:
        """Mark the keys of `rows` as stored; `release` undoes it.

        Raises `DuplicateRecord` and then claims none.
        """
        claimed: list[tuple[KeySet, Hashable]] = []
        for row in rows:
            if isinstance(row, Turn | Vote | Verdict):
                which, key = _key(row)
                known = self._load(which)
                if key in known:
                    self.release(claimed)
                    raise DuplicateRecord(f"already stored in {which[0]}: {_describe(row)}")
                known.add(key)
                claimed.append((which, key))
        return claimed

    def release(self, claimed: Sequence[tuple[KeySet, Hashable]]) -> None:
        """Drop keys whose rows were not stored after all."""
        for which, key in claimed:
            self._known[which].discard(key)

    def forget(self) -> None:
        """Drop all keys after rows were removed; they are read again when needed."""
        self._known.clear()

    def _load(self, which: KeySet) -> set[Hashable]:
        known = self._known.get(which)
        if known is None:
            table, stage = which
            params = None if stage is None else stage.params
            found = self._connection.execute(_KEYS[table], params).fetchall()
            # Turns and verdicts have one key column, votes two.
            known = {key[0] if len(key) == 1 else key for key in found}
            self._known[which] = known
        return known


def _key(row: Turn | Vote | Verdict) -> tuple[KeySet, Hashable]:
    if isinstance(row, Verdict):
        return ("verdicts", None), row.turn_id
    if isinstance(row, Turn):
        return ("turns", row.stage), row.turn_id
    return ("votes", row.stage), (row.question_id, row.round)


def _describe(row: Turn | Vote | Verdict) -> str:
    if isinstance(row, Turn):
        return row.key
    if isinstance(row, Vote):
        where = f"iteration {row.iteration}, {row.split}, {row.arm}, {row.decoding}"
        return f"question {row.question_id}, round {row.round} ({where})"
    return f"turn {row.turn_id}"


Work = Callable[[duckdb.DuckDBPyConnection], None]
# Bounds a transaction, and so how long the first append in it waits for the others.
_ROWS_PER_COMMIT = 16384
# The value is at fault here and not the disk, so the store takes further appends.
_BAD_VALUE = (
    duckdb.ConstraintException,
    duckdb.ConversionException,
    duckdb.InvalidInputException,
    duckdb.OutOfRangeException,
)


@dataclass(slots=True)
class _Append:
    rows: Sequence[Record] = ()
    work: Work | None = None
    removes: bool = False
    done: Future[None] = field(default_factory=Future)
    claimed: list[tuple[KeySet, Hashable]] = field(default_factory=list)


class Writer:
    """Commits appends in order. After one write failed, every later append fails the same way."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._guard = DuplicateGuard(connection)
        self._queue: queue.SimpleQueue[_Append | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._failure: WriteFailed | None = None
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def submit(self, rows: Sequence[Record]) -> Future[None]:
        """Queue rows for one transaction; the future is done once they are committed."""
        return self._put(_Append(rows=rows))

    def submit_work(self, work: Work, *, removes: bool = False) -> Future[None]:
        """Queue `work` to run in a transaction of its own, on the writing thread.

        `removes`: it removes turns, votes or verdicts.
        """
        return self._put(_Append(work=work, removes=removes))

    def close(self) -> None:
        """Commit what is queued and stop; closing twice is fine."""
        # Under the lock, so that nothing is queued behind the None that ends the thread.
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _put(self, append: _Append) -> Future[None]:
        # A running future cannot be cancelled: rows handed over are written, even if the caller no
        # longer waits.
        append.done.set_running_or_notify_cancel()
        with self._lock:
            if self._closed:
                raise StoreClosed("the store was closed")
            self._queue.put(append)
        return append.done

    def _run(self) -> None:
        while True:
            waiting, last = self._take()
            # All plain appends go into one transaction. Work has one of its own, because it may
            # fail without touching rows that others have handed over.
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
        # More rows wait the longer a commit takes, so a busy writer makes few, large transactions.
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
            # One bad value fails the whole transaction: the others are tried again one by one.
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
            insert_rows(self._connection, (row for append in accepted for row in append.rows))
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
            # After the disk refused once, nothing more is accepted: later rows may rest on the ones
            # that are missing.
            self._failure = WriteFailed(
                f"the store could not write: {error}; free the disk and run again, "
                "everything committed before is intact"
            )
            return self._failure
        return error if isinstance(error, StoreError) else _with_context(error)


def _with_context(error: Exception) -> Exception:
    error.add_note("raised while the store was writing; nothing of this append was stored")
    return error
