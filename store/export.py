"""Relations and parts of a run as files that other tools read.

Datasets have a module of their own, `store.dataset_export`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Literal

import duckdb

from store.errors import InvalidQuery
from store.ledger import Store
from store.output_files import escape_formulas, replace_non_finite, replace_whole
from store.selection import OF_MODELS, OF_TURNS, OF_VOTES, Selection

Format = Literal["parquet", "jsonl", "csv"]
Part = Literal["questions", "turns", "verdicts", "votes", "debates", "models"]
_OPTIONS = {
    "parquet": "FORMAT parquet, COMPRESSION zstd",
    "jsonl": "FORMAT json",
    "csv": "FORMAT csv, HEADER",
}
_RELATIONS = "SELECT table_name FROM information_schema.tables ORDER BY table_name"
# The condition stands inside, before the joins: datasets and jobs have columns of the same names.
_MODELS = """
SELECT m.*, d.examples, d.sha256 AS dataset_sha256, j.status AS job_status, j.trained_tokens
FROM (FROM models WHERE {where}) AS m
LEFT JOIN datasets AS d USING (dataset_id)
LEFT JOIN jobs AS j USING (job_id)
ORDER BY m.created_at, m.model_id
"""
_PARTS = {
    "questions": (
        "SELECT * {shaped} FROM questions SEMI JOIN (FROM turns WHERE {where}) USING (question_id)",
        OF_TURNS,
    ),
    "turns": ("SELECT * {shaped} FROM turns WHERE {where}", OF_TURNS),
    "verdicts": ("FROM verdicts SEMI JOIN (FROM turns WHERE {where}) USING (turn_id)", OF_TURNS),
    "votes": ("FROM votes WHERE {where}", OF_VOTES),
    "models": (_MODELS, OF_MODELS),
}
MESSAGES = "messages::STRUCT(role VARCHAR, content VARCHAR)[]"
# What is nested becomes lists and structs in Parquet, values in JSONL, JSON text in CSV.
SHAPED = {
    ("questions", "parquet"): "REPLACE (meta::VARCHAR AS meta)",
    ("turns", "parquet"): f"REPLACE ({MESSAGES} AS messages)",
    ("examples", "csv"): "REPLACE (to_json(messages) AS messages)",
}

# Debates are put together a stretch at a time, so that memory does not grow with their number.
_AT_ONCE = 50_000
_DEBATE_KEY = "iteration, arm, split, decoding, question_id"
# Row numbers follow the order of storing, so debates are numbered as they were held.
_DEBATES = """
CREATE TEMP TABLE debates_out AS
SELECT row_number() OVER (ORDER BY min(rowid)) - 1 AS debate, {key}, max(round) AS rounds,
    arg_max({{'answer': answer, 'votes': votes, 'voters': voters, 'tie': tie, 'correct': correct}},
        round) AS vote
FROM votes
WHERE {where} AND split <> 'label'
GROUP BY {key}
"""
_ANSWER_ROWS = f"""
CREATE TEMP TABLE lines_out AS
SELECT debate, t.rowid AS line
FROM (SELECT rowid, {_DEBATE_KEY} FROM turns WHERE kind = 'answer') AS t
JOIN debates_out USING ({_DEBATE_KEY})
"""
_STRETCH = "SELECT min(line), max(line) FROM lines_out WHERE debate BETWEEN $first AND $last"
# The turns of a debate are stored near each other, so a stretch of debates lies in a small range of
# row numbers: naming the range keeps DuckDB from reading the whole table for every stretch.
_WHOLE_DEBATES = """
WITH answers AS (
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
JOIN answers USING (debate)
LEFT JOIN (SELECT question_id, task, question, gold FROM questions) USING (question_id)
ORDER BY debate
"""


def export_relation(store: Store, relation: str, path: str | Path, format: Format) -> int:
    """Write a table or view to a file, replacing it whole; returns the number of rows.

        with Store.open("runs/demo/run.duckdb", read_only=True) as store:
            export_relation(store, "accuracy", "accuracy.csv", "csv")

    Raises `InvalidQuery` for an unknown relation or format, `WriteFailed` where the file system
    refuses, and then leaves an older file as it was.
    """
    known = [str(name) for (name,) in store.rows(_RELATIONS)]
    if relation not in known:
        raise InvalidQuery(f"no table or view {relation!r}; there are {', '.join(known)}")
    # `relation` is one of the catalog's own names, so it can stand in the text of the query.
    return copy_query(store, f'FROM "{relation}"', {}, Path(path), format)


def export_part(
    store: Store, part: Part, path: str | Path, format: Format, selection: Selection
) -> int:
    """Write the selected rows of a part of the run; like `export_relation`.

    "questions" are those that the selected turns answer; "models" come with their dataset and job;
    "debates" are the complete ones, a row each, with all answers in a list. Raises `InvalidQuery`
    also for a selection of votes or debates by agent or role.
    """
    if part == "debates":
        where, params = selection.where(OF_VOTES)
        options = _copy_options(format)
        with replace_whole(Path(path)) as target, closing(store.cursor()) as cursor:
            count = write_debates(cursor, where, params, target, options, flat=format == "csv")
            if format == "jsonl":
                replace_non_finite(target)
            return count
    sql, columns = _PARTS[part]
    where, params = selection.where(columns)
    query = sql.format(where=where, shaped=SHAPED.get((part, format), ""))
    return copy_query(store, query, params, Path(path), format)


def copy_query(
    store: Store, query: str, params: Mapping[str, object], path: Path, format: Format
) -> int:
    """Write the answer to a query to a file, replacing it whole; returns the number of rows."""
    options = _copy_options(format)
    with replace_whole(path) as part, closing(store.cursor()) as cursor:
        if format == "csv":
            query = escape_formulas(cursor, query, params)
        sql = f"COPY ({query}) TO $path ({options})"
        counted = cursor.execute(sql, {**params, "path": str(part)}).fetchall()
        if format == "jsonl":
            replace_non_finite(part)
    return int(counted[0][0])


def write_debates(
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

    A row holds the last round's vote and, in `turns`, all answers by round and agent. `options` are
    those of COPY; `flat` makes JSON text of the list; `at_once` debates are held in memory. The
    temporary tables go with the cursor.
    """
    cursor.execute(_DEBATES.format(key=_DEBATE_KEY, where=where), params)
    cursor.execute(_ANSWER_ROWS)
    [(total,)] = cursor.execute("SELECT count(*) FROM debates_out").fetchall()
    parts = path.with_name(f"{path.name}.d")
    # Each stretch is a Parquet file of its own, since COPY cannot append to a file.
    parts.mkdir()
    try:
        # At least one stretch, so that an export without debates still has its columns.
        for first in range(0, max(total, 1), at_once):
            last = first + at_once - 1
            _write_stretch(cursor, first, last, parts / f"{first:012d}.parquet")
        given = {"parts": [str(part) for part in sorted(parts.iterdir())]}
        rows = "SELECT * FROM read_parquet($parts)"
        if flat:
            rows = rows.replace("*", "* REPLACE (to_json(turns) AS turns)", 1)
            rows = escape_formulas(cursor, rows, given)
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
        f"COPY ({_WHOLE_DEBATES}) TO $path (FORMAT parquet)",
        {**stretch, **lines, "path": str(path)},
    )


def _copy_options(format: Format) -> str:
    if format not in _OPTIONS:
        raise InvalidQuery(f"no export format {format!r}; there are {', '.join(_OPTIONS)}")
    return _OPTIONS[format]
