"""Which round of its debates an iteration's labels come from, where the votes decide that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, field, fields
from datetime import datetime

import duckdb

from store.ledger import Store
from store.records import utc_now

_FIND = "SELECT round FROM label_rounds WHERE iteration = ? AND arm = ?"
_CHANGE = """
UPDATE verdicts SET agrees = judged.agrees
FROM (
    SELECT unnest($turns::BIGINT[]) AS turn_id, unnest($agrees::BOOLEAN[]) AS agrees
) AS judged
WHERE verdicts.turn_id = judged.turn_id
"""


@dataclass(frozen=True, slots=True)
class LabelRound:
    """The round whose vote labels the training questions of an iteration of an arm, and why.

    `first_share` and `last_share` are the mean shares of the agents that are with the vote of round
    1 and of the last round; `low` and `high` are the 95 % interval of the second minus the first,
    over `questions`.
    """

    iteration: int
    arm: str
    round: int
    questions: int
    first_share: float
    last_share: float
    low: float
    high: float
    created_at: datetime = field(default_factory=utc_now)


def find_label_round(store: Store, iteration: int, arm: str) -> int | None:
    """The round that was decided on; None where nothing has been decided."""
    found = store.rows(_FIND, [iteration, arm])
    return int(found[0][0]) if found else None


def store_label_round(
    store: Store, decided: LabelRound, agrees: Mapping[int, bool | None] | None = None
) -> None:
    """Store a decision together with the verdicts that it changes, by turn; blocks."""
    columns = ", ".join(column.name for column in fields(decided))
    values = ", ".join("?" for _ in fields(decided))

    def work(connection: duckdb.DuckDBPyConnection) -> None:
        if agrees:
            changed = {"turns": list(agrees), "agrees": list(agrees.values())}
            connection.execute(_CHANGE, changed)
        connection.execute(
            f"INSERT INTO label_rounds ({columns}) VALUES ({values})", list(astuple(decided))
        )

    store.transact(work)
