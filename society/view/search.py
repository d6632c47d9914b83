"""Text search over all questions and responses, in the order in which they were stored.

A million debates are gigabytes of text and DuckDB has no index on it, so a search goes through
`turns` in stretches of rows until a page is full or its time is up, and then says where it stopped:
going on costs no more than beginning.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from society.view import debates
from society.view.debates import Key, Listed
from society.view.filters import Filter, Stage
from store.reader import Reader

_STRETCH = 200_000
_BUDGET_S = 1.0
_STAGE = "iteration, split, arm, decoding, question_id"
_MATCH = """
    (contains(lower(response), $text) OR question_id IN (
        SELECT question_id FROM questions WHERE contains(lower(question), $text)))
"""


@dataclass(frozen=True, slots=True)
class Found:
    """What a search has found so far.

    `go_on` is the row of `turns` to go on from, None when all was searched; `searched` counts the
    rows before it, of `total`.
    """

    rows: tuple[Listed, ...]
    go_on: int | None
    searched: int
    total: int


def search(reader: Reader, wanted: Filter, start: int) -> Found:
    """The debates that match from row `start` on, a page of them or what the time allows."""
    total = _count(reader)
    found: dict[Key, int] = {}
    until = time.monotonic() + _BUDGET_S
    at = start
    for first, last in _stretches(start, total, back=False):
        for key, row in _in_stretch(reader, wanted, first, last):
            found.setdefault(key, row)
        at = last
        if len(found) > debates.PAGE or time.monotonic() > until:
            break
    keys = sorted(found, key=lambda key: found[key])[: debates.PAGE]
    if len(found) > debates.PAGE:
        at = found[keys[-1]] + 1
    go_on = at if at < total else None
    return Found(debates.rows(reader, keys), go_on, min(at, total), total)


def neighbour(reader: Reader, wanted: Filter, key: Key, *, back: bool) -> Key | None:
    """The match stored next after `key`, or before it; None if there is none within the time."""
    total = _count(reader)
    here = _first_match(reader, wanted, key)
    if here is None:
        return None
    until = time.monotonic() + 3 * _BUDGET_S
    for first, last in _stretches(here if back else here + 1, total, back=back):
        found = {k: row for k, row in _in_stretch(reader, wanted, first, last) if k != key}
        if found:
            nearest = max if back else min
            return nearest(found, key=lambda k: found[k])
        if time.monotonic() > until:
            return None
    return None


def _count(reader: Reader) -> int:
    ((total,),) = reader.rows("SELECT count(*) FROM turns")
    return int(total)


def _stretches(start: int, total: int, *, back: bool) -> Iterator[tuple[int, int]]:
    """Ranges of rows from `start` on, or before it, longer ones where a range took little time."""
    size = _STRETCH
    while (start > 0) if back else (start < total):
        first, last = (max(0, start - size), start) if back else (start, start + size)
        begun = time.monotonic()
        yield first, last
        start = first if back else last
        if time.monotonic() - begun < _BUDGET_S / 5:
            size *= 2
        else:
            size = max(_STRETCH, size // 2)


def _in_stretch(reader: Reader, wanted: Filter, first: int, last: int) -> list[tuple[Key, int]]:
    """The debates whose first match is in these rows, each with its row."""
    condition, values = _scope(wanted)
    matches = reader.rows(
        f"SELECT {_STAGE}, min(rowid) FROM turns WHERE rowid >= $first AND rowid < $last "
        f"AND {condition} AND {_MATCH} GROUP BY ALL",
        values | {"first": first, "last": last, "text": wanted.text.lower()},
    )
    rows = {(Stage(*match[:4]), match[4]): match[5] for match in matches}
    if not rows:
        return []
    among = sorted({question_id for _, question_id in rows})
    earlier = set() if first == 0 else _matched_before(reader, wanted, first, among)
    keys = debates.matching(reader, wanted, None, None, back=False, among=among)
    return [
        (key, rows[key.stage, key.question_id])
        for key in keys
        if (key.stage, key.question_id) in rows and (key.stage, key.question_id) not in earlier
    ]


def _matched_before(
    reader: Reader, wanted: Filter, first: int, among: list[str]
) -> set[tuple[Stage, str]]:
    condition, values = _scope(wanted)
    found = reader.rows(
        f"SELECT DISTINCT {_STAGE} FROM turns WHERE rowid < $first AND {condition} "
        f"AND question_id IN (SELECT unnest($among)) AND {_MATCH}",
        values | {"first": first, "among": among, "text": wanted.text.lower()},
    )
    return {(Stage(*row[:4]), row[4]) for row in found}


def _first_match(reader: Reader, wanted: Filter, key: Key) -> int | None:
    ((row,),) = reader.rows(
        "SELECT min(rowid) FROM turns WHERE iteration = $iteration AND split = $split "
        f"AND arm = $arm AND decoding = $decoding AND question_id = $question_id AND {_MATCH}",
        {
            "iteration": key.stage.iteration,
            "split": key.stage.split,
            "arm": key.stage.arm,
            "decoding": key.stage.decoding,
            "question_id": key.question_id,
            "text": wanted.text.lower(),
        },
    )
    return None if row is None else int(row)


def _scope(wanted: Filter) -> tuple[str, dict[str, object]]:
    """The part of a filter that a turn by itself can be asked for."""
    names = ("iteration", "split", "arm", "decoding")
    given = {name: getattr(wanted, name) for name in names if getattr(wanted, name) is not None}
    return " AND ".join(["true", *(f"{name} = ${name}" for name in given)]), given
