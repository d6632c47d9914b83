"""The SQL that picks the rows of many datasets at once, from the views of examples to turn ids.

Four temporary tables, each made from the one before:

    selected     the rows of the user's own selections, if there are any
    examples     every row that could be trained on, of the built-in views and of `selected`
    quotas       how many rows each dataset takes of each side, and what each weighs
    chosen       the rows that the datasets take, in their final order, with their weights

Which rows are chosen depends only on what is stored, the rules and the seed: never on the machine,
the order of arrival or DuckDB's version.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import duckdb

from finetune.selection import SelectedRow
from store.records import AgentRole

SHARED_AGENT = 0
"""The agent number of a model that all agents share; its dataset pools the rows of all."""

Owner = tuple[int, AgentRole]
Side = tuple[int, str, str]
"""Agent, role and side: a critic's conversations are "corrected" or "kept", other rows "all"."""

Shape = Literal["answers", "pairs", "feedback"]
"""What a row is: an answer to learn, a better and a worse one, or one that is wanted or not."""
_COLUMNS: Mapping[Shape, str] = {
    "answers": "{side}, question_id, turn_id, sha256, NULL, NULL",
    "pairs": "'all', question_id, chosen_turn_id, sha256, rejected_turn_id, NULL",
    "feedback": "'all', question_id, turn_id, concat(sha256, ' ', wanted), NULL, wanted",
}
_BUILT_IN: Mapping[tuple[Shape, AgentRole], str] = {
    (shape, role): f"""
    SELECT iteration, agent, '{role}',
        {columns.format(side="'all'" if role == "generator" else "change")}
    FROM {"generation" if role == "generator" else "critic"}_{view}
    WHERE iteration BETWEEN $first AND $iteration AND arm = $arm
    """
    for shape, columns in _COLUMNS.items()
    for role in get_args(AgentRole)
    for view in ["examples" if shape == "answers" else shape]
}
_FIRST_ANSWERS = """
    SELECT iteration, agent, 'critic', 'kept', question_id, turn_id, sha256, NULL, NULL
    FROM generation_examples
    WHERE iteration BETWEEN $first AND $iteration AND arm = $arm
    """
_SELECTED = """
    SELECT t.iteration, s.agent, s.role, s.side, t.question_id, turn_id, t.sha256, NULL, NULL
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
# A row of an earlier iteration counts if its question is in the replayed share and its label is
# worded as the newest label of that question; of equal rows the newest counts. Labels of gold stay.
# `origin` is the turn that a response was first sampled for. An arm that reuses another arm's
# response has a turn of its own, with its own id. Ordered by turn_id the two arms' equal data would
# come in different orders, and give different datasets and models; ordered by origin they agree.
_EXAMPLES = """
CREATE OR REPLACE TEMP TABLE examples AS
WITH found (
    iteration, agent, role, side, question_id, turn_id, sha256, rejected_turn_id, wanted
) AS (
{found}
),

reused AS (
    SELECT turn_id, shared_turn_id
    FROM turns
    WHERE iteration BETWEEN $first AND $iteration AND arm = $arm AND shared_turn_id IS NOT NULL
),

labels AS (
    SELECT iteration, question_id, source, answer, votes, voters
    FROM label_votes
    WHERE iteration BETWEEN $first AND $iteration AND arm = $arm
),

newest AS (
    SELECT question_id, arg_max(answer, iteration) AS newest FROM labels GROUP BY question_id
)

SELECT f.agent * $own AS agent, f.agent AS speaker, role, side, iteration, question_id, turn_id,
    sha256, rejected_turn_id, wanted, coalesce(shared_turn_id, turn_id) AS origin, votes, voters
FROM found AS f
LEFT JOIN reused USING (turn_id)
LEFT JOIN labels AS l USING (iteration, question_id)
LEFT JOIN newest USING (question_id)
WHERE (
        iteration = $iteration
        OR (l.source = 'gold' OR l.answer = newest)
        AND ('0x' || left(sha256('replay:' || $seed || ':' || question_id), 8))::BIGINT
            < $replay_share * 4294967296
    )
    -- Shares are compared as the user wrote them: 0.6 * 5 need not be 3 to the last bit.
    AND ($low::DOUBLE IS NULL OR votes BETWEEN $low * voters - 1e-9 AND $high * voters + 1e-9)
QUALIFY row_number() OVER (
    PARTITION BY role, f.agent, question_id, sha256 ORDER BY iteration DESC
) = 1
"""

# How unlike the others' agreeing answers each answer is: 1 - the Jaccard index of their words and
# pairs of neighboring words, mean over the others. A question's answers are ranked among
# themselves, so that neither long nor hard questions are favored; the measure itself decides among
# equal ranks. An answer that nobody else has reached is ranked with the most unlike.
_NOVEL = """
CREATE OR REPLACE TEMP TABLE examples AS
WITH words AS (
    SELECT turn_id, role, iteration, question_id, speaker,
        regexp_extract_all(lower(response), '[\\p{L}\\p{N}_]+|[^\\p{L}\\p{N}_\\s]') AS words
    FROM examples JOIN (SELECT turn_id, response FROM turns) USING (turn_id)
),

sets AS (
    SELECT turn_id, role, iteration, question_id, speaker, list_distinct(list_concat(words,
        list_transform(range(1, len(words)), lambda n: words[n] || ' ' || words[n + 1]))) AS parts
    FROM words
),

compared AS (
    SELECT a.turn_id, a.role, round(avg(1 - len(list_intersect(a.parts, b.parts)) / greatest(1,
        len(a.parts) + len(b.parts) - len(list_intersect(a.parts, b.parts)))), 12) AS unlike
    FROM sets AS a
    JOIN sets AS b USING (role, iteration, question_id)
    WHERE a.speaker <> b.speaker
    GROUP BY ALL
),

ranked AS (
    SELECT e.*, coalesce(unlike, 1) AS unlike,
        percent_rank() OVER (
            PARTITION BY role, iteration, question_id ORDER BY coalesce(unlike, 1) DESC
        ) AS place
    FROM examples AS e
    LEFT JOIN compared USING (turn_id, role)
)

SELECT * EXCLUDE (unlike, place)
FROM ranked
QUALIFY row_number() OVER (
    PARTITION BY role, speaker ORDER BY place, unlike DESC, sha256($seed || ':' || turn_id)
) <= ceil($novelty * count(*) OVER (PARTITION BY role, speaker))
"""

_AVAILABLE = "SELECT speaker, role, side, count(*) FROM examples GROUP BY ALL"

_QUOTAS = """
CREATE OR REPLACE TEMP TABLE quotas (
    dataset_id VARCHAR, agent INTEGER, role VARCHAR, side VARCHAR, available BIGINT, quota BIGINT,
    weight DOUBLE
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
# For a provider without weights each row comes as often as its weight is to the smallest, rounded
# half up, and weighs 1. Second copies come after all first ones, so that equal rows lie far apart.
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
    SELECT dataset_id, turn_id
    FROM ranked
    QUALIFY quota >= row_number() OVER (
        PARTITION BY dataset_id, side ORDER BY time, draw, origin
    )
),

taken AS (
    SELECT dataset_id, side, turn_id, question_id, sha256, origin, weight,
        (votes / voters)::DECIMAL(18, 9) AS share, rejected_turn_id, wanted
    FROM examples
    JOIN quotas USING (agent, role, side)
    WHERE quota = available OR (dataset_id, turn_id) IN (FROM drawn)
),

-- By the share of votes, mean 1. Decimals add up to the same in any order.
weighed AS (
    SELECT * EXCLUDE (weight), if($margin_weights,
        weight * share::DOUBLE * count(*) OVER kind / sum(share) OVER kind, weight) AS weight
    FROM taken
    WINDOW kind AS (PARTITION BY dataset_id, if($by_side, side, ''))
),

counted AS (
    SELECT *, if($repeat,
        floor(weight / min(weight) OVER (PARTITION BY dataset_id) + 0.5), 1)::BIGINT AS times
    FROM weighed
),

copies AS (
    SELECT *, unnest(range(times)) AS copy FROM counted
)

SELECT
    dataset_id,
    side,
    turn_id,
    question_id,
    row_number() OVER (PARTITION BY dataset_id ORDER BY copy, origin) - 1 AS position,
    sha256,
    if($repeat, 1.0, weight) AS weight,
    rejected_turn_id,
    wanted
FROM copies
"""

# A weight of 1 is not part of the hash: it is that of datasets from before there were weights.
_DIGESTS = """
SELECT dataset_id, sha256(string_agg(
    if(weight = 1, sha256, concat(sha256, ' ', weight)), chr(10) ORDER BY position))
FROM chosen
GROUP BY ALL
"""
_COUNTS = "SELECT dataset_id, side, count(*) FROM chosen GROUP BY ALL"

_STORE = """
INSERT INTO dataset_examples (
    dataset_id, turn_id, question_id, position, weight, rejected_turn_id, wanted
)
SELECT dataset_id, turn_id, question_id, position, weight, rejected_turn_id, wanted
FROM chosen ANTI JOIN datasets USING (dataset_id)
"""


@dataclass(frozen=True, slots=True)
class Quota:
    """How many rows a dataset takes of one side, and what each of them weighs."""

    dataset_id: str
    side: Side
    rows: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Content:
    """What a dataset has come to: its rows by side, repeats counted, and the SHA-256 (hex) of them
    all in order."""

    sides: Mapping[str, int]
    sha256: str


@dataclass(frozen=True, slots=True)
class RowFilter:
    """Which of the trainable rows count.

    Those of the iterations from `first` on, of earlier ones the share `replay_share` of the
    questions; with labels that had a share of the votes within `margin`; and of each agent's, the
    share `novelty` that is most unlike the other agents'. `first_answers` lets critics learn the
    generators' rows too.
    """

    first: int
    seed: int
    replay_share: float = 1.0
    margin: tuple[float, float] | None = None
    novelty: float | None = None
    first_answers: bool = False


def find_examples(
    connection: duckdb.DuckDBPyConnection,
    iteration: int,
    arm: str,
    selected: Mapping[AgentRole, Sequence[SelectedRow]],
    rows: RowFilter,
    *,
    shape: Shape = "answers",
    pooled: bool,
) -> dict[Side, int]:
    """Fill `examples`, and count the rows of each agent, role and side.

    The rows come from `selected` for the roles that it has, from the built-in views for the others.
    """
    connection.execute(_SELECTED_TABLE)
    for role, given_rows in selected.items():
        for start in range(0, len(given_rows), _ROWS_AT_ONCE):
            part = given_rows[start : start + _ROWS_AT_ONCE]
            columns = {
                "agents": [row.agent for row in part],
                "sides": [row.side for row in part],
                "turns": [row.turn_id for row in part],
            }
            connection.execute(_SELECTED_ROWS, {"role": role, **columns})
    views = [_BUILT_IN[shape, role] for role in get_args(AgentRole) if role not in selected]
    if rows.first_answers and "critic" not in selected:
        views.append(_FIRST_ANSWERS)
    low, high = rows.margin or (None, None)
    given: dict[str, object] = {
        "iteration": iteration,
        "first": rows.first,
        "arm": arm,
        "own": 0 if pooled else 1,
        "seed": str(rows.seed),
        "replay_share": rows.replay_share,
        "low": low,
        "high": high,
    }
    sql = _EXAMPLES.replace("{found}", "UNION ALL".join([*views, _SELECTED]))
    connection.execute(sql, given)
    if rows.novelty is not None:
        connection.execute(_NOVEL, {"novelty": rows.novelty, "seed": str(rows.seed)})
    counts = connection.execute(_AVAILABLE).fetchall()
    return {(agent, role, side): count for agent, role, side, count in counts}


def choose_rows(
    connection: duckdb.DuckDBPyConnection,
    quotas: Sequence[Quota],
    available: Mapping[Side, int],
    seed: int,
    *,
    repeat: bool,
    margin_weights: bool = False,
    by_side: bool = False,
) -> dict[str, Content]:
    """Fill `chosen` with as many rows as `quotas` say; the content by dataset, if it has rows.

    `margin_weights` weighs rows by their labels' share of votes, `by_side` within each side, so
    that the sides keep what they count. `repeat` turns weights into repeated rows.
    """
    connection.execute(_QUOTAS)
    for quota in quotas:
        connection.execute(
            "INSERT INTO quotas VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                quota.dataset_id,
                *quota.side,
                available.get(quota.side, 0),
                quota.rows,
                quota.weight,
            ],
        )
    given = {"repeat": repeat, "margin_weights": margin_weights, "by_side": by_side}
    connection.execute(_CHOSEN, {"seed": str(seed), **given})
    sides: dict[str, dict[str, int]] = defaultdict(dict)
    for dataset_id, side, rows in connection.execute(_COUNTS).fetchall():
        sides[dataset_id][side] = rows
    digests = connection.execute(_DIGESTS).fetchall()
    return {name: Content(sides[name], digest) for name, digest in digests}


def store_rows(connection: duckdb.DuckDBPyConnection) -> None:
    """Store the chosen rows of datasets that are not stored yet, and drop the temporary tables.

    Call it before the datasets themselves are inserted: those already stored keep their rows.
    """
    connection.execute(_STORE)
    for table in ("selected", "examples", "quotas", "chosen"):
        connection.execute(f"DROP TABLE {table}")
