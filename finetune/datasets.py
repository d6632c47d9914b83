"""Views → one immutable dataset per (agent, role), derived for all agents at once in SQL.

A dataset holds references to turns, not texts. Which rows it takes depends only on what is stored,
the rules and the seed, never on the machine, the order of arrival or DuckDB's own hashing. Rows lie
in the order of turn_id, which is a hash of the turn's key; a turn that took over another's response
lies where that one would, so that arms with equal data have equal datasets.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from statistics import fmean

import duckdb

from finetune.errors import DatasetChanged
from finetune.mixture import Mixture, compute_mixture
from finetune.selection import SelectedRow, TrainingSelection, select_rows
from store.bulk_insert import insert_rows
from store.ledger import Store
from store.records import AgentRole, Dataset, LossOn

SHARED_AGENT = 0
_CHOSEN_BY = "rows chosen by"
Owner = tuple[int, AgentRole]
Side = tuple[int, str, str]

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

_LEARNABLE = """
CREATE OR REPLACE TEMP TABLE learnable AS
WITH examples AS (
{examples}
),

taken_over AS (
    SELECT turn_id, shared_turn_id
    FROM turns
    WHERE iteration = $iteration AND arm = $arm AND shared_turn_id IS NOT NULL
)

SELECT e.agent * $own AS agent, e.agent AS speaker, role, side, question_id, turn_id, sha256,
    coalesce(shared_turn_id, turn_id) AS origin
FROM examples AS e
LEFT JOIN taken_over USING (turn_id)
"""

_AVAILABLE = "SELECT speaker, role, side, count(*) FROM learnable GROUP BY ALL"

_QUOTAS = """
CREATE OR REPLACE TEMP TABLE quotas (
    dataset_id VARCHAR, agent INTEGER, role VARCHAR, side VARCHAR, available BIGINT, quota BIGINT
)
"""

# sha256 is the same on every machine and in every version; DuckDB's hash() is not promised to be.
# Of pooled data, a question comes a second time only when every question has come once.
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
    FROM learnable
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
    FROM learnable
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


# Before the datasets' own rows are inserted, so that those stored earlier keep theirs as they are.
_KEEP_ROWS = """
INSERT INTO dataset_examples (dataset_id, turn_id, question_id, position)
SELECT dataset_id, turn_id, question_id, position FROM chosen ANTI JOIN datasets USING (dataset_id)
"""


@dataclass(frozen=True, slots=True)
class DatasetRules:
    """How rows are selected.

    `w` is the fraction of corrected conversations in a critic's dataset; `seed` decides which rows
    are taken where not all are; `critic_loss` "all" puts the loss on every assistant turn of a
    critic's conversation, not only on the last. `max_examples` bounds each dataset. `matched` gives
    a pooled dataset only as many rows as one agent's own would have, the mean over the agents.
    `selections` are the user's own, by role, in place of the built-in views.
    """

    w: float = 0.5
    critic_loss: LossOn = "final"
    max_examples: int | None = None
    seed: int = 0
    matched: bool = False
    selections: Mapping[AgentRole, TrainingSelection] = field(default_factory=dict)


def name_dataset(iteration: int, arm: str, agent: int, role: str) -> str:
    """A dataset's name, unique within a run."""
    return f"{arm}-a{agent}-{role}-it{iteration}"


def derive_dataset(
    store: Store, iteration: int, arm: str, agent: int, role: AgentRole, rules: DatasetRules
) -> Dataset:
    """One dataset; see `derive_datasets`, which makes many at the price of one."""
    return derive_datasets(store, iteration, arm, [(agent, role)], rules)[agent, role]


def derive_datasets(
    store: Store, iteration: int, arm: str, owners: Sequence[Owner], rules: DatasetRules
) -> dict[Owner, Dataset]:
    """Derive and store the datasets of all `owners` (agent, role), in one transaction; blocks.

    They come from the debates of one iteration of one arm. Agent `SHARED_AGENT` (0) pools what all
    agents learnt, for a model they share; it cannot be asked for together with single agents.
    Building again returns what is stored. Raises `DatasetChanged` where a stored dataset would come
    out differently, and `SelectionRefused` as `custom.select` does.
    """
    if not owners:
        return {}
    shared = {agent == SHARED_AGENT for agent, _ in owners}
    if len(shared) > 1:
        raise ValueError("a pooled dataset (agent 0) and single agents' cannot be built together")
    built: dict[Owner, Dataset] = {}
    asked = sorted({role for _, role in owners} & rules.selections.keys())
    chosen = {r: select_rows(store, iteration, arm, rules.selections[r], r) for r in asked}

    def work(connection: duckdb.DuckDBPyConnection) -> None:
        own = 0 if True in shared else 1
        _fill_learnable(connection, iteration, arm, own, chosen)
        counts = connection.execute(_AVAILABLE).fetchall()
        available = {(agent, role, side): count for agent, role, side, count in counts}
        if not own:
            rules_of = {role: _limit_rules(rules, role, available) for _, role in owners}
            available = _pool_counts(available)
        else:
            rules_of = {role: rules for _, role in owners}
        planned = [
            _plan_dataset(iteration, arm, owner, rules_of[owner[1]], available) for owner in owners
        ]
        digests = _choose_rows(connection, planned, available)
        fresh: list[Dataset] = []
        for dataset in planned:
            content = f"{dataset.learn}\n{digests.get(dataset.dataset_id, '')}"
            complete = replace(dataset, sha256=hashlib.sha256(content.encode()).hexdigest())
            stored = store.dataset(dataset.dataset_id)
            if stored is None:
                fresh.append(complete)
            else:
                _require_equal(stored, complete)
            built[dataset.agent, dataset.role] = stored or complete
        connection.execute(_KEEP_ROWS)
        insert_rows(connection, fresh)
        for table in ("selected", "learnable", "quotas", "chosen"):
            connection.execute(f"DROP TABLE {table}")

    store.transact(work)
    return built


def _fill_learnable(
    connection: duckdb.DuckDBPyConnection,
    iteration: int,
    arm: str,
    own: int,
    chosen: Mapping[AgentRole, Sequence[SelectedRow]],
) -> None:
    """Fill `learnable` from the built-in views, and from `chosen` for the roles that it has."""
    connection.execute(_SELECTED_TABLE)
    for role, rows in chosen.items():
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = rows[start : start + _ROWS_AT_ONCE]
            columns = {
                "agents": [row.agent for row in part],
                "sides": [row.side for row in part],
                "turns": [row.turn_id for row in part],
            }
            connection.execute(_SELECTED_ROWS, {"role": role, **columns})
    views = [sql for role, sql in _BUILT_IN.items() if role not in chosen]
    given: dict[str, object] = {"iteration": iteration, "arm": arm, "own": own}
    sql = _LEARNABLE.format(examples="UNION ALL".join([*views, _SELECTED]))
    connection.execute(sql, given)


def _pool_counts(available: Mapping[Side, int]) -> dict[Side, int]:
    pooled: Counter[Side] = Counter()
    for (_, role, side), count in available.items():
        pooled[SHARED_AGENT, role, side] += count
    return dict(pooled)


def _limit_rules(
    rules: DatasetRules, role: AgentRole, available: Mapping[Side, int]
) -> DatasetRules:
    """The rules for data pooled from all agents; matched, with the bound that follows from it."""
    speakers = sorted({agent for agent, _, _ in available})
    if not rules.matched or not speakers:
        return rules
    sizes = [_compute_size(rules, role, agent, available)[0] for agent in speakers]
    return replace(rules, max_examples=max(1, round(fmean(sizes))))


def _compute_size(
    rules: DatasetRules, role: AgentRole, agent: int, available: Mapping[Side, int]
) -> tuple[int, Mixture | None]:
    """How many rows the dataset of an agent's role has, and a critic's mixture."""
    if role == "generator":
        found = available.get((agent, role, "all"), 0)
        return (found if rules.max_examples is None else min(found, rules.max_examples)), None
    mixture = compute_mixture(
        available.get((agent, role, "corrected"), 0),
        available.get((agent, role, "kept"), 0),
        rules.w,
        rules.max_examples,
    )
    return mixture.corrected + mixture.kept, mixture


def _plan_dataset(
    iteration: int, arm: str, owner: Owner, rules: DatasetRules, available: Mapping[Side, int]
) -> Dataset:
    agent, role = owner
    dataset = Dataset(
        dataset_id=name_dataset(iteration, arm, agent, role),
        iteration=iteration,
        arm=arm,
        agent=agent,
        role=role,
        examples=0,
        sha256="",
        learn=rules.critic_loss if role == "critic" else "final",
        seed=rules.seed,
        max_examples=rules.max_examples,
    )
    examples, mixture = _compute_size(rules, role, agent, available)
    if mixture is None:
        note = None if examples else "no learnable answer"
        return replace(dataset, examples=examples, note=_write_note(rules, role, note))
    return replace(
        dataset,
        examples=examples,
        corrected=mixture.corrected,
        kept=mixture.kept,
        w=rules.w,
        note=_write_note(rules, role, mixture.note),
    )


def _write_note(rules: DatasetRules, role: AgentRole, note: str | None) -> str | None:
    selection = rules.selections.get(role)
    if selection is None:
        return note
    chosen = f"{_CHOSEN_BY} {selection.name} (SHA-256 {selection.sha256[:12]})"
    return f"{chosen}; {note}" if note else chosen


def _choose_rows(
    connection: duckdb.DuckDBPyConnection,
    planned: Sequence[Dataset],
    available: Mapping[Side, int],
) -> dict[str, str]:
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


def _read_selection_name(note: str | None) -> str | None:
    """The selection that a note names, None for the built-in one."""
    return note.partition(";")[0] if note and note.startswith(_CHOSEN_BY) else None


def _require_equal(stored: Dataset, derived: Dataset) -> None:
    # The note is said by this version of the software, about the same rows.
    told = {"created_at": derived.created_at, "note": derived.note}
    same_way = _read_selection_name(stored.note) == _read_selection_name(derived.note)
    if same_way and replace(stored, **told) == derived:  # type: ignore[arg-type]
        return
    differing = [
        f"{name}: stored {getattr(stored, name)!r}, now {getattr(derived, name)!r}"
        for name in (field.name for field in fields(Dataset))
        if (name not in told or (name == "note" and not same_way))
        and getattr(stored, name) != getattr(derived, name)
    ]
    raise DatasetChanged(
        f"dataset {stored.dataset_id} is stored and would come out differently "
        f"({'; '.join(differing)}); take another run name, or the settings it was made with"
    )
