"""The SQL that picks the rows of many datasets at once, from the views of examples to turn ids.

Four temporary tables, each made from the one before:

    selected     the rows of the user's own selections, if there are any
    examples     every row that could be trained on, of the built-in views and of `selected`
    quotas       how many rows each dataset takes of each side
    chosen       the rows that the datasets take, in their final order

Which rows are chosen depends only on what is stored, the rules and the seed: never on the machine,
the order of arrival or DuckDB's version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import duckdb

from finetune.selection import SelectedRow
from store.records import AgentRole, Dataset

SHARED_AGENT = 0
"""The agent number of a model that all agents share; its dataset pools the rows of all."""

Owner = tuple[int, AgentRole]
Side = tuple[int, str, str]
"""Agent, role and side; a generator's rows are one side "all", a critic's "corrected" or "kept"."""

_BUILT_IN: Mapping[AgentRole, str] = {
    "generator": """
    SELECT agent, 'generator' AS role, 'all' AS side, question_id, turn_id, sha256
    FROM generation_examples
    WHERE iteration = $iteration AND arm = $arm
    """,
    "critic": """
    SELECT agent, 'critic' AS role, change AS side, question_id, turn_id, sha256
    FROM critic_examples
    WHERE iteration = $iteration AND arm = $arm
    """,
}
_SELECTED = """
    SELECT s.agent, s.role, s.side, t.question_id, turn_id, t.sha256
    FROM selected AS s
    JOIN turns AS t USING (turn_id)
"""

_SELECTED_TABLE = """
CREATE OR REPLACE TEMP TABLE selected (
    role VARCHAR, agent INTEGER, side VARCHAR, turn_id BIGINT
)
"""
_SELECTED_ROWS = """
INSERT INTO selected
SELECT $role, unnest($agents::INTEGER[]), unnest($sides::VARCHAR[]), unnest($turns::BIGINT[])
"""
_ROWS_AT_ONCE = 50_000

# $own is 1, or 0 for pooled datasets: then every row belongs to agent 0 (SHARED_AGENT), and only
# `speaker` says whose answer it is.
# `origin` is the turn that a response was first sampled for. An arm that reuses another arm's
# response has a turn of its own, with its own id. Ordered by turn_id the two arms' equal data would
# come in different orders, and give different datasets and models; ordered by origin they agree.
_EXAMPLES = """
CREATE OR REPLACE TEMP TABLE examples AS
WITH found AS (
{found}
),

reused AS (
    SELECT turn_id, shared_turn_id
    FROM turns
    WHERE iteration = $iteration AND arm = $arm AND shared_turn_id IS NOT NULL
)

SELECT f.agent * $own AS agent, f.agent AS speaker, role, side, question_id, turn_id, sha256,
    coalesce(shared_turn_id, turn_id) AS origin
FROM found AS f
LEFT JOIN reused USING (turn_id)
"""

_AVAILABLE = "SELECT speaker, role, side, count(*) FROM examples GROUP BY ALL"

_QUOTAS = """
CREATE OR REPLACE TEMP TABLE quotas (
    dataset_id VARCHAR, agent INTEGER, role VARCHAR, side VARCHAR, available BIGINT, quota BIGINT
)
"""

# Only a side with more rows than its quota is drawn from; of the others every row is taken.
# The draw is by sha256, the same on every machine and in every version; DuckDB does not promise
# that of its hash(). 15 hex digits are 60 bits, which fit into a BIGINT.
# The draw hashes the question and not the turn, so that all agents draw the same questions first:
# their datasets differ by what the agents answered, not by luck.
# `time` numbers the rows of one question. A pooled dataset has a row per agent; drawing by `time`
# first, a question comes a second time only when every question has come once.
# `origin` breaks ties, so that no order is left to chance, and is the final order: it is a hash of
# the turn's key and says nothing about when the turn arrived.
_CHOSEN = """
CREATE OR REPLACE TEMP TABLE chosen AS
WITH ranked AS (
    SELECT
        dataset_id,
        side,
        turn_id,
        origin,
        quota,
        ('0x' || left(sha256($seed || ':' || question_id), 15))::BIGINT AS draw,
        row_number() OVER (
            PARTITION BY dataset_id, side, question_id
            ORDER BY sha256($seed || ':' || question_id || ':' || speaker), origin
        ) AS time
    FROM examples
    JOIN quotas USING (agent, role, side)
    WHERE quota < available
),

drawn AS (
    SELECT turn_id
    FROM ranked
    QUALIFY quota >= row_number() OVER (
        PARTITION BY dataset_id, side ORDER BY time, draw, origin
    )
),

taken AS (
    SELECT dataset_id, turn_id, question_id, sha256, origin
    FROM examples
    JOIN quotas USING (agent, role, side)
    WHERE quota = available OR turn_id IN (FROM drawn)
)

SELECT
    dataset_id,
    turn_id,
    question_id,
    row_number() OVER (PARTITION BY dataset_id ORDER BY origin) - 1 AS position,
    sha256
FROM taken
"""

_DIGESTS = """
SELECT dataset_id, sha256(string_agg(sha256, chr(10) ORDER BY position)) FROM chosen GROUP BY ALL
"""

_STORE = """
INSERT INTO dataset_examples (dataset_id, turn_id, question_id, position)
SELECT dataset_id, turn_id, question_id, position FROM chosen ANTI JOIN datasets USING (dataset_id)
"""


def find_examples(
    connection: duckdb.DuckDBPyConnection,
    iteration: int,
    arm: str,
    selected: Mapping[AgentRole, Sequence[SelectedRow]],
    *,
    pooled: bool,
) -> dict[Side, int]:
    """Fill `examples`, and count the rows of each agent, role and side.

    The rows come from `selected` for the roles that it has, from the built-in views for the others.
    """
    connection.execute(_SELECTED_TABLE)
    for role, rows in selected.items():
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = rows[start : start + _ROWS_AT_ONCE]
            columns = {
                "agents": [row.agent for row in part],
                "sides": [row.side for row in part],
                "turns": [row.turn_id for row in part],
            }
            connection.execute(_SELECTED_ROWS, {"role": role, **columns})
    views = [sql for role, sql in _BUILT_IN.items() if role not in selected]
    sql = _EXAMPLES.format(found="UNION ALL".join([*views, _SELECTED]))
    own = 0 if pooled else 1
    given: dict[str, object] = {"iteration": iteration, "arm": arm, "own": own}
    connection.execute(sql, given)
    counts = connection.execute(_AVAILABLE).fetchall()
    return {(agent, role, side): count for agent, role, side, count in counts}


def choose_rows(
    connection: duckdb.DuckDBPyConnection,
    planned: Sequence[Dataset],
    available: Mapping[Side, int],
) -> dict[str, str]:
    """Fill `chosen` with as many rows as `planned` says; SHA-256 (hex) of the rows per dataset."""
    connection.execute(_QUOTAS)
    for dataset in planned:
        sides = {"all": dataset.examples}
        if dataset.corrected is not None and dataset.kept is not None:
            sides = {"corrected": dataset.corrected, "kept": dataset.kept}
        for side, quota in sides.items():
            found = available.get((dataset.agent, dataset.role, side), 0)
            connection.execute(
                "INSERT INTO quotas VALUES (?, ?, ?, ?, ?, ?)",
                [dataset.dataset_id, dataset.agent, dataset.role, side, found, quota],
            )
    connection.execute(_CHOSEN, {"seed": str(planned[0].seed)})
    return dict(connection.execute(_DIGESTS).fetchall())


def store_rows(connection: duckdb.DuckDBPyConnection) -> None:
    """Store the chosen rows of datasets that are not stored yet, and drop the temporary tables.

    Call it before the datasets themselves are inserted: those already stored keep their rows.
    """
    connection.execute(_STORE)
    for table in ("selected", "examples", "quotas", "chosen"):
        connection.execute(f"DROP TABLE {table}")
