"""Keeps the big tables free of duplicates without an index on them.

Turns and votes are known per stage (iteration, split, arm, decoding), verdicts altogether; what the
file holds already is read when a stage is first written to.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import duckdb

from store.errors import DuplicateRecord
from store.records import Row, Turn, Verdict, Vote

Scope = tuple[str, tuple[object, ...]]
_STAGE = "iteration = ? AND split = ? AND arm = ? AND decoding = ?"
_KEYS = {
    "turns": f"SELECT turn_id FROM turns WHERE {_STAGE}",
    "votes": f"SELECT question_id, round FROM votes WHERE {_STAGE}",
    "verdicts": "SELECT turn_id FROM verdicts",
}


class Guard:
    """The keys of stored turns, votes and verdicts. Used by the writing thread only."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._known: dict[Scope, set[Hashable]] = {}

    def claim(self, rows: Iterable[Row]) -> list[tuple[Scope, Hashable]]:
        """Mark the keys of `rows` as stored; `release` undoes it.

        Raises `DuplicateRecord` and then claims none.
        """
        claimed: list[tuple[Scope, Hashable]] = []
        for row in rows:
            if isinstance(row, Turn | Vote | Verdict):
                scope, key = _key(row)
                known = self._load(scope)
                if key in known:
                    self.release(claimed)
                    raise DuplicateRecord(f"already stored in {scope[0]}: {_describe(row)}")
                known.add(key)
                claimed.append((scope, key))
        return claimed

    def release(self, claimed: Sequence[tuple[Scope, Hashable]]) -> None:
        """Forget keys whose rows were not stored after all."""
        for scope, key in claimed:
            self._known[scope].discard(key)

    def forget(self) -> None:
        """Rows were removed: read again what there is, when it is needed."""
        self._known.clear()

    def _load(self, scope: Scope) -> set[Hashable]:
        known = self._known.get(scope)
        if known is None:
            table, values = scope
            found = self._connection.execute(_KEYS[table], list(values)).fetchall()
            known = {key[0] if len(key) == 1 else key for key in found}
            self._known[scope] = known
        return known


def _key(row: Turn | Vote | Verdict) -> tuple[Scope, Hashable]:
    if isinstance(row, Verdict):
        return ("verdicts", ()), row.turn_id
    stage = (row.iteration, row.split, row.arm, row.decoding)
    if isinstance(row, Turn):
        return ("turns", stage), row.turn_id
    return ("votes", stage), (row.question_id, row.round)


def _describe(row: Turn | Vote | Verdict) -> str:
    if isinstance(row, Turn):
        return row.key
    if isinstance(row, Vote):
        where = f"iteration {row.iteration}, {row.split}, {row.arm}, {row.decoding}"
        return f"question {row.question_id}, round {row.round} ({where})"
    return f"turn {row.turn_id}"
