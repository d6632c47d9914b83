"""The database that is exported from: the run's own, or a snapshot of it while it is running."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from store.errors import StoreLocked
from store.ledger import Store
from store.snapshots import request_snapshot

# Above this limit DuckDB sorts and joins on disk, so that a run of any size can be exported.
MEMORY = "2GB"
_PATIENCE_S = 20.0


@contextmanager
def open_readable(database: Path) -> Iterator[Store]:
    """The run's database, or a snapshot of it if the run is running."""
    with ExitStack() as stack:
        try:
            store = stack.enter_context(Store.open(database, read_only=True, memory_limit=MEMORY))
            locked = store.running
        except StoreLocked:
            locked = True
        # A running run would change between two files; a snapshot is one moment.
        if locked:
            stack.close()
            copy = stack.enter_context(request_snapshot(database, _PATIENCE_S))
            store = stack.enter_context(Store.open(copy, read_only=True, memory_limit=MEMORY))
        yield store
