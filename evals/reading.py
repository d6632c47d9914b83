"""Which run a database belongs to, and which arms it has."""

from __future__ import annotations

from evals.metrics import ARM
from store.ledger import Store
from store.records import Run

_EVALUATED = """
    select votes.arm
    from votes left join arms using (arm)
    where split = 'eval'
    group by votes.arm, position, labels
    order by $trained_first and labels is null and position is not null, position, votes.arm
"""


class NothingStored(ValueError):
    """The database belongs to no run yet."""


def run_of(store: Store) -> Run:
    """The run a database belongs to. Raises `NothingStored`."""
    run = store.run()
    if run is None:
        raise NothingStored(f"{store.path} holds no run yet; start one with `society run`")
    return run


def evaluated_arms(store: Store) -> list[str]:
    """The arms that have answered evaluation questions, in the experiment's order."""
    return [arm for (arm,) in store.rows(_EVALUATED, {"trained_first": False})]


def main_arm(store: Store) -> str:
    """The arm that is meant where one is: the first that is trained, else the first there is."""
    found = store.rows(_EVALUATED, {"trained_first": True})
    return str(found[0][0]) if found else ARM
