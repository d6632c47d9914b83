"""One read-only question to a run's database, from a user who may type anything."""

from __future__ import annotations

from pathlib import Path

from store.answers import QueryResult
from store.binding import Params
from store.reader import open_reader

__all__ = ["QueryResult", "query"]


def query(
    path: str | Path,
    sql: str,
    params: Params | None = None,
    *,
    limit: int | None = None,
) -> QueryResult:
    """Answer one SELECT (also FROM, WITH, VALUES, DESCRIBE, EXPLAIN) over the database at `path`.

    At most `limit` rows are fetched. Raises `InvalidQuery` for anything else and for errors in the
    query, and what `open_reader` raises for an unusable file.
    """
    with open_reader(path, sealed=True) as reader:
        return reader.query(sql, params).result(limit)
