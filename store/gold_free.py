"""What a selection of training data may see: a database of its own, without gold answers.

It has the tables `questions`, `turns`, `votes` and `verdicts` without their columns `gold` and
`correct`, and the views generation_examples and critic_examples. In it are the training debates of
one arm up to one iteration, so that asking again later gives the same answer. No query in it
reaches a file or the network.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import islice, product
from pathlib import Path

import duckdb

from store import schema
from store.bulk_insert import build_insert
from store.connection import connect, seal
from store.ledger import Store
from store.records import Question, StageKey, StageSplit, Turn, Verdict, Vote
from store.tables import TABLES, Record, Table

GOLD = frozenset({"gold", "correct"})
VIEWS = ("generation_examples", "critic_examples")
_AT_ONCE = 4096
_PREFIX = ".selection-"
_DEBATED = """
SELECT DISTINCT question_id FROM turns WHERE split = 'train' AND arm = ? AND iteration <= ?
"""


def _without_gold(record: type) -> Table:
    table = TABLES[record]
    columns = tuple(name for name in table.columns if name not in GOLD)
    # The copies of the tables have no keys to replace rows by.
    return replace(table, columns=columns, key=())


_VISIBLE: Mapping[type, Table] = {
    record: _without_gold(record) for record in (Question, Turn, Vote, Verdict)
}


@contextmanager
def open_empty_copy() -> Iterator[duckdb.DuckDBPyConnection]:
    """The tables and views without rows, to check a query against."""
    with closing(connect(Path(":memory:"), read_only=False)) as connection:
        _prepare(connection)
        yield connection


@contextmanager
def copy_training_debates(
    store: Store, iteration: int, arm: str
) -> Iterator[duckdb.DuckDBPyConnection]:
    """The sampled training debates of `arm` up to `iteration`, copied beside the run's file.

    The copy is removed afterwards. Blocks for about as long as storing those turns took.
    """
    # A killed run leaves its copy behind.
    for left in store.path.parent.glob(f"{_PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=store.path.parent) as folder:
        file = Path(folder) / "visible.duckdb"
        with closing(connect(file, read_only=False)) as connection:
            _prepare(connection)
            debated = {name for (name,) in store.rows(_DEBATED, [arm, iteration])}
            questions = [q for q in store.questions("train") if q.question_id in debated]
            _insert(connection, Question, questions)
            splits: tuple[StageSplit, ...] = ("train", "label")
            for each, split in product(range(1, iteration + 1), splits):
                stage = StageKey(each, split, arm)
                _insert(connection, Turn, store.turns(stage))
                _insert(connection, Vote, store.votes(stage))
                _insert(connection, Verdict, store.verdicts(stage).values())
            yield connection


def _prepare(connection: duckdb.DuckDBPyConnection) -> None:
    for _, _, sql in schema.read_migrations():
        connection.execute(sql)
    # Made from the same migrations as a run's file, then cut down to the columns of the records
    # without gold, so that a new column is there by itself.
    visible = {table.name: table for table in _VISIBLE.values()}
    for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall():
        if name in visible:
            columns = ", ".join(visible[name].columns)
            connection.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT {columns} FROM {name}")
        else:
            connection.execute(f'DROP TABLE "{name}"')
    # The old name of `is_extra`, for selections that still use it: no training question is extra.
    connection.execute("ALTER TABLE questions ADD COLUMN zero_shot BOOLEAN DEFAULT false")
    for view in VIEWS:
        connection.execute(f"CREATE VIEW {view} AS {schema.read_view_sql(view)}")
    seal(connection)


def _insert(connection: duckdb.DuckDBPyConnection, record: type, rows: Iterable[Record]) -> None:
    waiting = iter(rows)
    while batch := list(islice(waiting, _AT_ONCE)):
        sql, params = build_insert(_VISIBLE[record], batch)
        connection.execute(sql, params)
