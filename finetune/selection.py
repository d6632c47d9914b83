"""The user's own selection of training rows, in place of a built-in view.

A selection is one SELECT that gives the columns of `generation_examples` or `critic_examples`. It
runs on a copy without gold answers (`store.gold_free`), and every row that it gives is checked
against the turn that the row names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import duckdb

from finetune.errors import SelectionRefused
from store import gold_free
from store.errors import InvalidQuery
from store.ledger import Store
from store.records import AgentRole
from store.statements import extract_query

_VIEWS: dict[AgentRole, str] = {
    "generator": "generation_examples",
    "critic": "critic_examples",
}
# A model is trained on the stored turn, byte for byte, never on a text that the selection gives.
_TEXTS = ("messages", "response")
_ROWS = """
CREATE TEMP TABLE {table} AS
SELECT {columns} FROM selected
WHERE iteration BETWEEN $iteration - $replay AND $iteration AND arm = $arm
"""
# EXCEPT ALL in both directions: EXCEPT would miss a row that comes twice in one of the two runs.
_DIFFERING = """
SELECT count(*) FROM (
    (FROM selected_rows EXCEPT ALL FROM selected_again)
    UNION ALL (FROM selected_again EXCEPT ALL FROM selected_rows)
)
"""
_UNPLACED = "SELECT count(*) FROM selected WHERE iteration IS NULL OR arm IS NULL"
_FAULTS: dict[AgentRole, str] = {
    "generator": """
    WHEN t.round <> 1 THEN 'turn ' || r.turn_id || ' is a later answer, which a critic gives'
    """,
    "critic": """
    WHEN t.round = 1 THEN 'turn ' || r.turn_id || ' is a first answer, which a generator gives'
    WHEN r.change IS NULL OR r.change NOT IN ('corrected', 'kept')
        THEN 'change is ' || coalesce(r.change, 'NULL') || ', not corrected or kept'
    WHEN f.turn_id IS NULL THEN 'first_turn_id is not the agent''s first answer in that debate'
    """,
}
# White space of every alphabet, the same pattern as in the view `critic_examples`.
_BLANK = r"[\s\v\x1c-\x1f\x85\p{Z}]*"
_FIRST = """
LEFT JOIN turns AS f
    ON f.turn_id = r.first_turn_id AND f.round = 1 AND f.kind = 'answer'
    AND f.iteration = t.iteration AND f.agent = t.agent AND f.question_id = t.question_id
"""
# Every row of the selection that must not be trained on, with its fault; the cases stand in the
# order in which a user would mend them. `turns` holds only sampled turns on training questions of
# the arm, so a turn of the evaluation, or of another arm, is not found.
_CHECKED = """
SELECT r.agent, r.question_id, r.turn_id, CASE
    WHEN r.agent IS NULL OR r.question_id IS NULL OR r.turn_id IS NULL OR r.sha256 IS NULL
        THEN 'agent, question_id, turn_id or sha256 is NULL'
    WHEN t.turn_id IS NULL
        THEN 'turn ' || r.turn_id || ' is no sampled turn on a training question of this arm'
    WHEN t.kind <> 'answer' THEN 'turn ' || r.turn_id || ' is a ' || t.kind
    WHEN t.iteration <> r.iteration THEN 'turn ' || r.turn_id || ' is of iteration ' || t.iteration
    WHEN t.agent <> r.agent THEN 'turn ' || r.turn_id || ' is agent ' || t.agent || '''s'
    WHEN t.question_id <> r.question_id
        THEN 'turn ' || r.turn_id || ' answers question ' || t.question_id
    WHEN t.finish_reason = 'error' OR regexp_full_match(t.response, '{blank}')
        THEN 'turn ' || r.turn_id || ' has no response'
    WHEN t.sha256 <> r.sha256 THEN 'sha256 is not that of turn ' || r.turn_id
    {more}
    WHEN count(*) OVER (PARTITION BY r.iteration, r.agent, r.question_id) > 1
        THEN 'there is another row of this agent and question'
END AS fault
FROM selected_rows AS r
LEFT JOIN turns AS t ON t.turn_id = r.turn_id
{first}
QUALIFY fault IS NOT NULL
ORDER BY r.agent, r.question_id, r.turn_id
"""


@dataclass(frozen=True)
class TrainingSelection:
    """A user's SELECT for one role; `name` is the name of its file.

    ```python
    TrainingSelection("short.sql", "SELECT * FROM critic_examples WHERE length(response) < 400")
    ```
    """

    name: str
    sql: str

    @cached_property
    def sha256(self) -> str:
        """SHA-256 (hex) of the text."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class SelectedRow:
    """One selected row: the turn that `agent` may be trained on, and its side of the mixture."""

    agent: int
    side: str
    turn_id: int


def check_selection(selection: TrainingSelection, role: AgentRole) -> None:
    """Raise `SelectionRefused` unless it is one SELECT with the built-in view's columns and types.

    The check runs on empty tables, so it needs no stored debates.
    """
    with gold_free.open_empty_copy() as connection:
        _define_view(connection, selection, role)


def select_rows(
    store: Store,
    iteration: int,
    arm: str,
    selection: TrainingSelection,
    role: AgentRole,
    *,
    replay: int = 0,
) -> list[SelectedRow]:
    """The rows that the selection gives of one iteration and arm, each checked; blocks.

    With `replay` also those of so many iterations before.

    Raises `SelectionRefused` if the selection fails or gives other rows when run again, and for the
    first row whose turn is not the agent's own sampled answer to a training question.
    """
    with gold_free.copy_training_debates(store, iteration, arm) as connection:
        columns = _define_view(connection, selection, role)
        try:
            rows = {"iteration": iteration, "arm": arm, "replay": replay}
            _materialize_rows(connection, selection, columns, rows)
            _check_rows(connection, selection, role)
        except duckdb.Error as error:
            raise SelectionRefused(f"{selection.name} fails: {error}") from error
        side = "change" if role == "critic" else "'all'"
        found = connection.execute(f"SELECT agent, {side}, turn_id FROM selected_rows").fetchall()
    return [SelectedRow(*row) for row in found]


def _define_view(
    connection: duckdb.DuckDBPyConnection, selection: TrainingSelection, role: AgentRole
) -> list[str]:
    """Make a view `selected` of the selection; returns the names of its columns without texts."""
    try:
        connection.execute(f"CREATE TEMP VIEW selected AS {extract_query(selection.sql)}")
        given = _read_columns(connection, "selected")
    except InvalidQuery as error:
        raise SelectionRefused(
            f"{selection.name} must be one SELECT that reads, and nothing else: {error}"
        ) from error
    except duckdb.Error as error:
        raise SelectionRefused(
            f"{selection.name} cannot be used: {error}\nIt may read questions, turns, votes, "
            f"verdicts, {' and '.join(gold_free.VIEWS)}; none of them has gold or correct, and "
            "no file can be read"
        ) from error
    expected = _read_columns(connection, _VIEWS[role])
    if given != expected:
        raise SelectionRefused(_explain_difference(selection, role, given, expected))
    return [name for name in expected if name not in _TEXTS]


def _read_columns(connection: duckdb.DuckDBPyConnection, relation: str) -> dict[str, str]:
    found = connection.execute(f"DESCRIBE {relation}").fetchall()
    return {str(name): str(kind) for name, kind, *_ in found}


def _explain_difference(
    selection: TrainingSelection, role: AgentRole, given: dict[str, str], expected: dict[str, str]
) -> str:
    faults = [f"{name} ({kind}) is missing" for name, kind in expected.items() if name not in given]
    faults += [f"{name} is not a column of it" for name in given if name not in expected]
    faults += [
        f"{name} is {given[name]} and must be {kind}"
        for name, kind in expected.items()
        if name in given and given[name] != kind
    ]
    return (
        f"{selection.name} does not give the columns of {_VIEWS[role]}: {'; '.join(faults)}\n"
        f"The simplest selection is: SELECT * FROM {_VIEWS[role]} WHERE …"
    )


def _materialize_rows(
    connection: duckdb.DuckDBPyConnection,
    selection: TrainingSelection,
    columns: Sequence[str],
    rows: Mapping[str, object],
) -> None:
    [(unplaced,)] = connection.execute(_UNPLACED).fetchall()
    if unplaced:
        raise SelectionRefused(f"{selection.name}: {unplaced} row(s) without iteration or arm")
    # Twice: a selection that is left to chance would give another dataset when a run is resumed.
    for table in ("selected_rows", "selected_again"):
        sql = _ROWS.format(table=table, columns=", ".join(columns))
        connection.execute(sql, rows)
    [(differing,)] = connection.execute(_DIFFERING).fetchall()
    if differing:
        raise SelectionRefused(
            f"{selection.name} gives other rows when run again ({differing} differ); leave out "
            "random(), and LIMIT without ORDER BY"
        )


def _check_rows(
    connection: duckdb.DuckDBPyConnection, selection: TrainingSelection, role: AgentRole
) -> None:
    first = _FIRST if role == "critic" else ""
    sql = _CHECKED.format(more=_FAULTS[role], first=first, blank=_BLANK)
    faulty = connection.execute(sql).fetchmany(2)
    if faulty:
        agent, question_id, _, fault = faulty[0]
        raise SelectionRefused(
            f"{selection.name}: the row of agent {agent}, question {question_id!r}: {fault}"
            + ("; other rows are wrong too" if len(faulty) > 1 else "")
        )
