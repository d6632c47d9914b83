"""Keeps the big tables free of duplicates without an index on them.

Turns and votes are known per stage (iteration, split, arm, decoding), verdicts altogether; what the
file holds already is read when a stage is first written to.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import duckdb

from store.errors import DuplicateRecord
from store.records import IN_STAGE, Row, StageKey, Turn, Verdict, Vote

KeySet = tuple[str, StageKey | None]
"""A table, and which stage of it; None: all of it."""

_KEYS = {
    "turns": f"SELECT turn_id FROM turns WHERE {IN_STAGE}",
    "votes": f"SELECT question_id, round FROM votes WHERE {IN_STAGE}",
    "verdicts": "SELECT turn_id FROM verdicts",
}


class Guard:
    """The keys of stored turns, votes and verdicts. Used by the writing thread only."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._known: dict[KeySet, set[Hashable]] = {}

    def claim(self, rows: Iterable[Row]) -> list[tuple[KeySet, Hashable]]:
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
        """Forget keys whose rows were not stored after all."""
        for which, key in claimed:
            self._known[which].discard(key)

    def forget(self) -> None:
        """Rows were removed: read again what there is, when it is needed."""
        self._known.clear()

    def _load(self, which: KeySet) -> set[Hashable]:
        known = self._known.get(which)
        if known is None:
            table, stage = which
            params = None if stage is None else stage.params
            found = self._connection.execute(_KEYS[table], params).fetchall()
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
