"""Which run a database belongs to."""

from __future__ import annotations

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
