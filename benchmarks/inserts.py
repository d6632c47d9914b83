"""Turns per second into a DuckDB file: one string split by DuckDB, and a registered pyarrow table.

    python benchmarks/inserts.py

The store inserts by the string (`store.bulk_insert`). Each line is one size of batch and of text; a
run appends batches of a debate's round, an import or a job that is caught up with thousands. The
ratio is Arrow's rate over the store's, by processor time, the best of five.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import duckdb
import pyarrow

from store.bulk_insert import build_insert
from store.connection import connect
from store.records import Turn
from store.schema import migrate
from store.tables import COLUMN_TYPES, TABLES

BATCHES = ((6, 1_200), (64, 6_000), (1_024, 20_000), (4_096, 40_000))
CHARACTERS = (100, 2_000)
_ARROW = {
    "BIGINT": pyarrow.int64(),
    "INTEGER": pyarrow.int32(),
    "DOUBLE": pyarrow.float64(),
    "BOOLEAN": pyarrow.bool_(),
    "TIMESTAMP": pyarrow.timestamp("us", tz="UTC"),
}
Insert = Callable[[duckdb.DuckDBPyConnection, Sequence[Turn]], None]


def main() -> int:
    """Print a line per size; the exit status is 0."""
    for characters in CHARACTERS:
        for batch, rows in BATCHES:
            turns = make_turns(rows, characters)
            text, arrow = (
                max(measure_rate(insert, turns, batch) for _ in range(5))
                for insert in (insert_text, insert_arrow)
            )
            print(
                f"{characters:5,} characters, {batch:5,} turns at once: text {text:7,.0f} turns/s, "
                f"arrow {arrow:7,.0f} turns/s, ratio {arrow / text:.2f}"
            )
    return 0


def make_turns(number: int, characters: int) -> list[Turn]:
    """Answers with a prompt of `characters` and half of that in the response."""
    messages = json.dumps([{"role": "user", "content": "x" * characters}])
    response = "y" * (characters // 2)
    return [
        Turn(
            1,
            "train",
            "multiagent",
            "sampled",
            f"q{n // 6}",
            n % 3 + 1,
            n % 2 + 1,
            "answer",
            f"m{n % 3}",
            messages,
            f"{n} {response}",
            str(n) if n % 7 else None,
            "stop",
            500,
            200,
            12.5,
        )
        for n in range(number)
    ]


def measure_rate(insert: Insert, turns: Sequence[Turn], batch: int) -> float:
    """Turns per second of processor time into a new file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.duckdb"
        connection = connect(path, read_only=False)
        migrate(connection, str(path))
        connection.execute("BEGIN")
        started = time.process_time()
        for first in range(0, len(turns), batch):
            insert(connection, turns[first : first + batch])
        took = time.process_time() - started
        connection.execute("COMMIT")
        [(stored,)] = connection.execute("SELECT count(*) FROM turns").fetchall()
        connection.close()
    assert stored == len(turns)
    return len(turns) / took


def insert_text(connection: duckdb.DuckDBPyConnection, turns: Sequence[Turn]) -> None:
    """As the store does."""
    connection.execute(*build_insert(TABLES[Turn], turns))


def insert_arrow(connection: duckdb.DuckDBPyConnection, turns: Sequence[Turn]) -> None:
    """By a table of pyarrow, registered for one statement."""
    names = TABLES[Turn].columns
    columns = zip(*map(attrgetter(*names), turns), strict=True)
    arrays: list[Any] = [
        pyarrow.array(values, _ARROW.get(COLUMN_TYPES.get(name, ""), pyarrow.string()))
        for name, values in zip(names, columns, strict=True)
    ]
    picked = ", ".join(
        f"{name} AT TIME ZONE 'UTC'" if COLUMN_TYPES.get(name) == "TIMESTAMP" else name
        for name in names
    )
    connection.register("arrived", pyarrow.table(arrays, names=list(names)))
    connection.execute(f"INSERT INTO turns ({', '.join(names)}) SELECT {picked} FROM arrived")
    connection.unregister("arrived")


if __name__ == "__main__":
    sys.exit(main())
