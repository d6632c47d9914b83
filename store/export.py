"""Relations, parts of a run and datasets as files that other tools read."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal

import duckdb

from store import output_files
from store.errors import InvalidQuery, StoreBroken, WriteFailed
from store.ledger import Store
from store.output_files import prepare_partial
from store.records import Dataset
from store.selection import OF_MODELS, OF_TURNS, OF_VOTES, Selection
from store.shapes import CHAT_FORMATS, ChatFormat

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
            rows = output_files.escape_formulas(cursor, rows, given)
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


Format = Literal["parquet", "jsonl", "csv"]
Part = Literal["questions", "turns", "verdicts", "votes", "debates", "models"]
_OPTIONS = {
    "parquet": "FORMAT parquet, COMPRESSION zstd",
    "jsonl": "FORMAT json",
    "csv": "FORMAT csv, HEADER",
}
_NOT_FINITE = re.compile(rb"NaN|Infinity")
# A string, which stays as it is, or a value that is not finite.
_VALUE = re.compile(rb'("(?:[^"\\]|\\.)*")|-?(?:NaN|Infinity)')
_RELATIONS = "SELECT table_name FROM information_schema.tables ORDER BY table_name"
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
_MESSAGES = "messages::STRUCT(role VARCHAR, content VARCHAR)[]"
# What is nested becomes lists and structs in Parquet, values in JSONL, JSON text in CSV.
_SHAPED = {
    ("questions", "parquet"): "REPLACE (meta::VARCHAR AS meta)",
    ("turns", "parquet"): f"REPLACE ({_MESSAGES} AS messages)",
    ("examples", "csv"): "REPLACE (to_json(messages) AS messages)",
}
_EXAMPLES = f"""
WITH learnt AS (
    SELECT d.dataset_id, d.iteration, d.arm, d.agent, d.role, e.position, e.turn_id, e.question_id,
        list_transform({_MESSAGES}, lambda m: {{{{
            'role': m.role,
            'content': m.content,
            'weight': if(m.role = 'assistant', if(d.loss_on = 'all', 1, 0), NULL)
        }}}}) || [{{{{'role': 'assistant', 'content': t.response, 'weight': 1}}}}] AS messages
    FROM (FROM dataset_examples WHERE dataset_id = $dataset_id) AS e
    JOIN datasets AS d USING (dataset_id)
    JOIN turns AS t USING (turn_id)
)

SELECT * {{shaped}} FROM learnt ORDER BY position
"""
_CONVERSATIONS = """
SELECT t.messages, t.response
FROM (SELECT turn_id, position FROM dataset_examples WHERE dataset_id = ?) AS e
JOIN turns AS t USING (turn_id)
ORDER BY e.position
"""
_FOUND = """
SELECT count(*) FROM turns
SEMI JOIN (FROM dataset_examples WHERE dataset_id = ?) USING (turn_id)
"""


def export_relation(store: Store, relation: str, path: str | Path, format: Format) -> int:
    """Write a table or view to a file, replacing it whole; returns the number of rows.

    Raises `InvalidQuery` for an unknown relation or format, `WriteFailed` where the file system
    refuses, and then leaves an older file as it was.
    """
    known = [str(name) for (name,) in store.rows(_RELATIONS)]
    if relation not in known:
        raise InvalidQuery(f"no table or view {relation!r}; there are {', '.join(known)}")
    # `relation` is one of the catalog's own names, so it is not a value.
    return _copy(store, f'FROM "{relation}"', {}, Path(path), format)


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
        options = _options(format)
        with _replacing(Path(path)) as target, closing(store.cursor()) as cursor:
            count = write_debates(cursor, where, params, target, options, flat=format == "csv")
            if format == "jsonl":
                _standardize(target)
            return count
    sql, columns = _PARTS[part]
    where, params = selection.where(columns)
    query = sql.format(where=where, shaped=_SHAPED.get((part, format), ""))
    return _copy(store, query, params, Path(path), format)


def export_examples(store: Store, dataset_id: str, path: str | Path, format: Format) -> int:
    """Write a dataset's rows, each with the turn behind it; like `export_relation`.

    `messages` is the whole conversation, the learnt response last: a list of role, content and
    weight, 1 where the loss falls, 0 on other assistant messages, NULL elsewhere.
    """
    _whole(store, dataset_id)
    query = _EXAMPLES.format(shaped=_SHAPED.get(("examples", format), ""))
    return _copy(store, query, {"dataset_id": dataset_id}, Path(path), format)


def export_dataset(
    store: Store, dataset_id: str, path: str | Path, shape: ChatFormat = "chat"
) -> int:
    """Write a dataset as JSONL in a shape that trainers read, replacing the file; returns the rows.

    The shapes are in `store.shapes`. Raises `InvalidQuery` for an unknown dataset, `StoreBroken`
    where turns of it are missing.
    """
    loss_on_all = _whole(store, dataset_id).loss_on == "all"
    line, count = CHAT_FORMATS[shape], 0
    with _replacing(Path(path)) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        for messages, response in store.stream(_CONVERSATIONS, [dataset_id]):
            file.write(line(str(messages), str(response), loss_on_all=loss_on_all) + "\n")
            count += 1
    return count


def _whole(store: Store, dataset_id: str) -> Dataset:
    dataset = store.dataset(dataset_id)
    if dataset is None:
        raise InvalidQuery(f"no dataset {dataset_id!r}")
    [(found,)] = store.rows(_FOUND, [dataset_id])
    if found != dataset.examples:
        raise StoreBroken(
            f"dataset {dataset_id} has {dataset.examples} rows and {found} of their turns are "
            f"stored in {store.path}; restore the file from a copy"
        )
    return dataset


def _options(format: Format) -> str:
    if format not in _OPTIONS:
        raise InvalidQuery(f"no export format {format!r}; there are {', '.join(_OPTIONS)}")
    return _OPTIONS[format]


def _copy(
    store: Store, query: str, params: Mapping[str, object], path: Path, format: Format
) -> int:
    options = _options(format)
    with _replacing(path) as part, closing(store.cursor()) as cursor:
        if format == "csv":
            query = output_files.escape_formulas(cursor, query, params)
        sql = f"COPY ({query}) TO $path ({options})"
        counted = cursor.execute(sql, {**params, "path": str(part)}).fetchall()
        if format == "jsonl":
            _standardize(part)
    return int(counted[0][0])


def _standardize(lines: Path) -> None:
    """Put null where DuckDB has written NaN or infinity, which JSON does not have (RFC 8259)."""
    with lines.open("rb") as file:
        if not any(_NOT_FINITE.search(line) for line in file):
            return
    better = lines.with_name(f"{lines.name}.json")
    try:
        with lines.open("rb") as file, better.open("wb") as out:
            for line in file:
                out.write(_VALUE.sub(lambda found: found[1] or b"null", line))
        os.replace(better, lines)
    finally:
        better.unlink(missing_ok=True)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A file to write to, which takes the place of `path` once it is complete."""
    part = prepare_partial(path)
    try:
        yield part
        os.replace(part, path)
    except (OSError, duckdb.IOException, duckdb.OutOfMemoryException) as error:
        raise WriteFailed(f"cannot write {path}: {error}") from error
    finally:
        part.unlink(missing_ok=True)
