"""Tables, views and datasets as files that other tools read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal

import duckdb

from store.errors import InvalidQuery, WriteFailed
from store.ledger import Store

Format = Literal["parquet", "jsonl", "csv"]
_OPTIONS = {"parquet": "FORMAT parquet", "jsonl": "FORMAT json", "csv": "FORMAT csv, HEADER"}
_RELATIONS = "SELECT table_name FROM information_schema.tables ORDER BY table_name"
_CONVERSATIONS = """
SELECT t.messages, t.response
FROM (SELECT turn_id, position FROM dataset_examples WHERE dataset_id = ?) AS e
JOIN turns AS t USING (turn_id)
ORDER BY e.position
"""


def export_relation(store: Store, relation: str, path: str | Path, format: Format) -> int:
    """Write a table or view to a file, replacing it whole; returns the number of rows.

    Raises `InvalidQuery` for an unknown relation or format, `WriteFailed` where the file system
    refuses, and then leaves an older file as it was.
    """
    known = [str(name) for (name,) in store.rows(_RELATIONS)]
    if relation not in known:
        raise InvalidQuery(f"no table or view {relation!r}; there are {', '.join(known)}")
    if format not in _OPTIONS:
        raise InvalidQuery(f"no export format {format!r}; there are {', '.join(_OPTIONS)}")
    # `relation` is one of the catalog's own names and `format` one of ours, so neither is a value.
    sql = f'COPY (FROM "{relation}") TO $path ({_OPTIONS[format]})'
    with _replacing(Path(path)) as part, closing(store.cursor()) as cursor:
        try:
            counted = cursor.execute(sql, {"path": str(part)}).fetchall()
        except duckdb.IOException as error:
            raise WriteFailed(f"cannot write {path}: {error}") from error
    return int(counted[0][0])


def export_dataset(store: Store, dataset_id: str, path: str | Path) -> int:
    """Write a dataset as chat fine-tuning JSONL, replacing the file; returns the number of rows.

    One {"messages": [{"role", "content"}, ...]} per line; assistant messages carry "weight" 1 where
    the loss falls on them, otherwise 0. Raises `InvalidQuery` for an unknown dataset.
    """
    dataset = store.dataset(dataset_id)
    if dataset is None:
        raise InvalidQuery(f"no dataset {dataset_id!r}")
    count = 0
    with _replacing(Path(path)) as part:
        try:
            with part.open("w", encoding="utf-8", newline="\n") as file:
                for messages, response in store.stream(_CONVERSATIONS, [dataset_id]):
                    line = _chat(str(messages), str(response), learn_all=dataset.learn == "all")
                    file.write(line + "\n")
                    count += 1
        except OSError as error:
            raise WriteFailed(f"cannot write {path}: {error}") from error
    return count


def _chat(messages: str, response: str, *, learn_all: bool) -> str:
    turns: list[dict[str, object]] = []
    for message in json.loads(messages):
        turn: dict[str, object] = {"role": message["role"], "content": message["content"]}
        if message["role"] == "assistant":
            turn["weight"] = int(learn_all)
        turns.append(turn)
    turns.append({"role": "assistant", "content": response, "weight": 1})
    return json.dumps({"messages": turns}, ensure_ascii=False)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    except FileNotFoundError as error:
        raise WriteFailed(f"cannot write {path}: {error}") from error
    finally:
        part.unlink(missing_ok=True)
