"""Reading a run's tables: the author of a query knows the types of its columns, mypy does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from store.ledger import Store
from store.records import Run


class NothingStored(ValueError):
    """The database belongs to no run yet."""


def run_of(store: Store) -> Run:
    """The run a database belongs to. Raises `NothingStored`."""
    run = store.run()
    if run is None:
        raise NothingStored(f"{store.path} holds no run yet; start one with `society run`")
    return run


def rows(store: Store, query: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
    """All rows of `query` with `values` bound to its question marks."""
    return [*store.rows(query, values)]
