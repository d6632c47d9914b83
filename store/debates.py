"""Whole debates as rows, for export: every complete debate once, its answers in a list.

Debates are put together a stretch at a time, so that memory does not grow with their number.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import duckdb

from store import spreadsheet

_AT_ONCE = 50_000
_KEY = "iteration, arm, split, decoding, question_id"
_DEBATES = """
CREATE TEMP TABLE debates_out AS
SELECT row_number() OVER (ORDER BY min(rowid)) - 1 AS debate, {key}, max(round) AS rounds,
    arg_max({{'answer': answer, 'votes': votes, 'voters': voters, 'tie': tie, 'correct': correct}},
        round) AS vote
FROM votes
WHERE {where}
GROUP BY {key}
"""
_LINES = f"""
CREATE TEMP TABLE lines_out AS
SELECT debate, t.rowid AS line
FROM (SELECT rowid, {_KEY} FROM turns WHERE kind = 'answer') AS t
JOIN debates_out USING ({_KEY})
"""
_STRETCH = "SELECT min(line), max(line) FROM lines_out WHERE debate BETWEEN $first AND $last"
# The turns of a debate are stored near each other, so each stretch reads a small part of the table.
_ROWS = """
WITH spoken AS (
    SELECT debate, list({
        'agent': agent,
        'round': round,
        'model_id': model_id,
        'response': response,
        'answer': answer,
        'finish_reason': finish_reason,
        'agrees': agrees,
        'correct': correct,
        'turn_id': turn_id
    } ORDER BY round, agent) AS turns
    FROM (
        SELECT rowid AS line, turn_id, agent, round, model_id, response, answer, finish_reason
        FROM turns
        WHERE rowid BETWEEN $first_line AND $last_line
    )
    JOIN (FROM lines_out WHERE debate BETWEEN $first AND $last) USING (line)
    LEFT JOIN verdicts USING (turn_id)
    GROUP BY debate
)

SELECT iteration, arm, split, task, decoding, question_id, question, gold, rounds, vote.answer,
    vote.votes, vote.voters, vote.tie, vote.correct, turns
FROM debates_out
JOIN spoken USING (debate)
LEFT JOIN (SELECT question_id, task, question, gold FROM questions) USING (question_id)
ORDER BY debate
"""


def write(
    cursor: duckdb.DuckDBPyConnection,
    where: str,
    params: Mapping[str, object],
    path: Path,
    options: str,
    *,
    flat: bool,
    at_once: int = _AT_ONCE,
) -> int:
    """Write the debates whose votes fulfil the condition `where`; returns their number.

    One row per iteration, arm, split, task, decoding and question: the last round's vote and, in
    `turns`, all answers by round and agent. `options` are those of COPY; `flat` makes JSON text of
    the list. `cursor` is given temporary tables and should be closed afterwards; `at_once` debates
    are held in memory.
    """
    cursor.execute(_DEBATES.format(key=_KEY, where=where), params)
    cursor.execute(_LINES)
    [(total,)] = cursor.execute("SELECT count(*) FROM debates_out").fetchall()
    parts = path.with_name(f"{path.name}.d")
    parts.mkdir()
    try:
        for first in range(0, max(total, 1), at_once):
            last = first + at_once - 1
            _write_stretch(cursor, first, last, parts / f"{first:012d}.parquet")
        given = {"parts": [str(part) for part in sorted(parts.iterdir())]}
        rows = "SELECT * FROM read_parquet($parts)"
        if flat:
            rows = rows.replace("*", "* REPLACE (to_json(turns) AS turns)", 1)
            rows = spreadsheet.quoted(cursor, rows, given)
        counted = cursor.execute(
            f"COPY ({rows}) TO $path ({options})", {**given, "path": str(path)}
        ).fetchall()
    finally:
        shutil.rmtree(parts)
    return int(counted[0][0])


def _write_stretch(cursor: duckdb.DuckDBPyConnection, first: int, last: int, path: Path) -> None:
    stretch = {"first": first, "last": last}
    [(first_line, last_line)] = cursor.execute(_STRETCH, stretch).fetchall()
    lines = {"first_line": first_line, "last_line": last_line}
    cursor.execute(
        f"COPY ({_ROWS}) TO $path (FORMAT parquet)", {**stretch, **lines, "path": str(path)}
    )
