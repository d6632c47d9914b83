"""Text search over all questions and responses, in the order in which they were stored.

A million debates are gigabytes of text and DuckDB has no index on it, so a search goes through
`turns` in stretches of rows until a page is full or its time is up, and then says where it stopped.
To search further from there costs no more than to begin.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from society.view import debate_list
from society.view.debate_list import DebateKey, ListedDebate
from society.view.filters import Filter
from store.reader import Reader
from store.records import IN_STAGE, StageKey

# Rows of `turns` and, of them, turns that match: what one step looks at, at least.
# A stretch must be long enough that the fixed cost of a query does not matter, and short enough to
# stay within the time budget on a slow disk.
_STRETCH = 200_000
_MATCHES = 10 * debate_list.PAGE
_BUDGET_S = 1.0
_STAGE = "iteration, split, arm, decoding, question_id"
# Of the question as well as of the response: a reader remembers either.
_MATCH = """
    (contains(lower(response), $text) OR question_id IN (
        SELECT question_id FROM questions WHERE contains(lower(question), $text)))
"""

_Debate = tuple[StageKey, str]


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search has found so far.

    `next_row` is the row of `turns` to search next, None when all was searched; `searched` counts
    the rows before it, of `total`.
    """

    rows: tuple[ListedDebate, ...]
    next_row: int | None
    searched: int
    total: int


def search_debates(reader: Reader, wanted: Filter, start: int) -> SearchResult:
    """The debates that match from row `start` on, a page of them or what the time allows."""
    total = _count_turns(reader)
    found: dict[DebateKey, int] = {}
    until = time.monotonic() + _BUDGET_S
    for matches, reached in _walk(reader, wanted, start, back=False):
        found |= matches
        at = reached
        if len(found) > debate_list.PAGE or time.monotonic() > until:
            break
    else:
        at = total
    keys = sorted(found, key=lambda key: found[key])[: debate_list.PAGE]
    if len(found) > debate_list.PAGE:
        # The page ends before the stretch does; the next page starts right after its last match.
        at = found[keys[-1]] + 1
    next_row = at if at < total else None
    return SearchResult(debate_list.read_rows(reader, keys), next_row, min(at, total), total)


def find_neighbor(
    reader: Reader, wanted: Filter, key: DebateKey, *, back: bool
) -> DebateKey | None:
    """The match stored next after `key`, or before it; None if there is none within the time."""
    here = _find_first_match(reader, wanted, key)
    if here is None:
        return None
    until = time.monotonic() + 3 * _BUDGET_S
    for matches, _ in _walk(reader, wanted, here if back else here + 1, back=back):
        if matches:
            nearest = max if back else min
            return nearest(matches, key=lambda key: matches[key])
        if time.monotonic() > until:
            return None
    return None


def _count_turns(reader: Reader) -> int:
    ((total,),) = reader.rows("SELECT count(*) FROM turns")
    return int(total)


def _walk(
    reader: Reader, wanted: Filter, start: int, *, back: bool
) -> Iterator[tuple[dict[DebateKey, int], int]]:
    """The debates first matched from row `start` on, or before it, each with the row of its match.

    With every step comes the row that it has reached. A step that took little time makes the next
    one longer, in rows and in matches: either may be rare.
    """
    low, high = _find_bounds(reader, wanted)
    start = min(start, high) if back else max(start, low)
    factor = 1
    while (start > low) if back else (start < high):
        begun = time.monotonic()
        size = factor * _STRETCH
        first, last = (max(low, start - size), start) if back else (start, min(high, start + size))
        rows = _find_matches(reader, wanted, first, last, factor * _MATCHES, back=back)
        # The query stopped at its limit of matches, so the rows after the last match are not
        # searched yet.
        if len(rows) == factor * _MATCHES:
            first, last = (rows[-1][1], last) if back else (first, rows[-1][1] + 1)
        start = first if back else last
        yield _keep_first_matches(reader, wanted, rows, first), start
        # Rows and matches grow together: either may be what makes a step slow.
        quick = time.monotonic() - begun < _BUDGET_S / 5
        factor = 2 * factor if quick else max(1, factor // 2)


def _find_matches(
    reader: Reader, wanted: Filter, first: int, last: int, limit: int, *, back: bool
) -> list[tuple[_Debate, int]]:
    """Turns that match in these rows, in order or, `back`, from the last on: debate and row."""
    condition, values = _build_stage_condition(wanted)
    found = reader.rows(
        f"SELECT {_STAGE}, rowid FROM turns WHERE rowid >= $first AND rowid < $last "
        f"AND {condition} AND {_MATCH} ORDER BY rowid {'DESC' if back else ''} LIMIT $limit",
        values | {"first": first, "last": last, "text": wanted.text.lower(), "limit": limit},
    )
    return [((StageKey(*match[:4]), match[4]), match[5]) for match in found]


def _keep_first_matches(
    reader: Reader, wanted: Filter, matches: list[tuple[_Debate, int]], first: int
) -> dict[DebateKey, int]:
    """Those of the matches' debates that the filter wants and that match nowhere before `first`."""
    if not matches:
        return {}
    rows: dict[_Debate, int] = {}
    for debate, row in matches:
        rows[debate] = min(row, rows.get(debate, row))
    among = sorted({question_id for _, question_id in rows})
    # A debate belongs to the row of its first match, or pages would list it twice.
    earlier = set() if first == 0 else _find_matched_before(reader, wanted, first, among)
    keys = debate_list.find_keys(reader, wanted, None, None, back=False, among=among)
    found = {key: (key.stage, key.question_id) for key in keys}
    return {
        key: rows[debate]
        for key, debate in found.items()
        if debate in rows and debate not in earlier
    }


def _find_bounds(reader: Reader, wanted: Filter) -> tuple[int, int]:
    """From which row to before which one the filter's stages are stored."""
    condition, values = _build_stage_condition(wanted)
    ((low, high),) = reader.rows(
        f"SELECT min(rowid), max(rowid) FROM turns WHERE {condition}", values
    )
    return (0, 0) if low is None else (int(low), int(high) + 1)


def _find_matched_before(
    reader: Reader, wanted: Filter, first: int, among: list[str]
) -> set[_Debate]:
    condition, values = _build_stage_condition(wanted)
    found = reader.rows(
        f"SELECT DISTINCT {_STAGE} FROM turns WHERE rowid < $first AND {condition} "
        f"AND question_id IN (SELECT unnest($among)) AND {_MATCH}",
        values | {"first": first, "among": among, "text": wanted.text.lower()},
    )
    return {(StageKey(*row[:4]), row[4]) for row in found}


def _find_first_match(reader: Reader, wanted: Filter, key: DebateKey) -> int | None:
    ((row,),) = reader.rows(
        f"SELECT min(rowid) FROM turns WHERE {IN_STAGE} "
        f"AND question_id = $question_id AND {_MATCH}",
        {**key.stage.params, "question_id": key.question_id, "text": wanted.text.lower()},
    )
    return None if row is None else int(row)


def _build_stage_condition(wanted: Filter) -> tuple[str, dict[str, object]]:
    """The part of a filter that a turn by itself can be asked for."""
    names = ("iteration", "split", "arm", "decoding")
    given = {name: getattr(wanted, name) for name in names if getattr(wanted, name) is not None}
    return " AND ".join(["true", *(f"{name} = ${name}" for name in given)]), given
