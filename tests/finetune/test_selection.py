"""The user's own selections: what they may read, what they must give, what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from finetune.datasets import DatasetRules, derive_datasets
from finetune.errors import DatasetChanged, SelectionRefused
from finetune.selection import TrainingSelection, check_selection, select_rows
from store import gold_free
from store.ledger import Store
from store.records import Question, Vote

EXAMPLES = re.findall(
    r"```sql\n(.*?)```",
    (Path(__file__).parents[2] / "docs" / "datasets.md").read_text(encoding="utf-8"),
    re.DOTALL,
)
SHORT = "SELECT * FROM generation_examples WHERE length(response) < 100"
KEPT = "SELECT * FROM critic_examples WHERE change = 'kept'"
OWNERS = [(agent, role) for role in ("generator", "critic") for agent in (1, 2)]


@pytest.fixture
def debated(store, debate_rows):
    """Two passes over two questions and one held-out debate; agent 1 is right from the start on q1,
    agent 2 corrects itself there."""
    marks = {"q1": [(True, True), (False, True)], "q2": [(True, True), (True, True)]}
    store.write(
        *(Question(q, "sums", "train", f"{q}?", "4", position=n) for n, q in enumerate(marks)),
        Question("q9", "sums", "train", "for later?", "4", position=9),
        Question("e1", "sums", "eval", "e1?", "4"),
        *debate_rows(marks),
        *debate_rows(marks, iteration=2),
        *debate_rows(marks, arm="other"),
        *(
            Vote(1, "train", "multiagent", "sampled", q, round, "4", 2, 2, False, True)
            for q in marks
            for round in (1, 2)
        ),
    )
    return store


def rows(store, sql, role="generator", iteration=1):
    found = select_rows(store, iteration, "multiagent", TrainingSelection("mine.sql", sql), role)
    return sorted((row.agent, row.side, row.turn_id) for row in found)


def built_in(store, view, side):
    return sorted(
        store.rows(
            f"SELECT agent, {side}, turn_id FROM {view} WHERE iteration = 1 AND arm = 'multiagent'"
        )
    )


def test_the_built_in_views_can_be_selected_from(debated):
    whole = rows(debated, "FROM generation_examples")
    assert whole == built_in(debated, "generation_examples", "'all'")
    assert len(whole) == 3
    critics = rows(debated, "FROM critic_examples -- all of them", "critic")
    assert critics == built_in(debated, "critic_examples", "change")
    assert len(critics) == 4
    assert len(rows(debated, f"{KEPT};", "critic")) == 3


def test_the_examples_of_the_docs_select_something(debated):
    brief, reasons = EXAMPLES
    assert len(rows(debated, brief)) == 3
    assert [agent for agent, *_ in rows(debated, reasons, "critic")] == [1, 1, 2, 2]


def test_gold_is_not_there_and_everything_else_is(store):
    with gold_free.open_empty_copy() as connection:
        tables = {
            table: {name for name, *_ in connection.execute(f"DESCRIBE {table}").fetchall()}
            for (table,) in connection.execute("SHOW TABLES").fetchall()
        }
    assert set(tables) == {"questions", "turns", "votes", "verdicts", *gold_free.VIEWS}
    whole = {table: {name for name, *_ in store.rows(f"DESCRIBE {table}")} for table in tables}
    missing = {table: whole[table] - names for table, names in tables.items()}
    assert missing == {
        "questions": {"gold"},
        "turns": set(),
        "votes": {"correct"},
        "verdicts": {"correct"},
        **{view: set() for view in gold_free.VIEWS},
    }
    # A new column is either gold, and then belongs into `gold_free.GOLD`, or goes here.
    assert whole["turns"] | whole["questions"] == {
        *("turn_id", "iteration", "arm", "split", "decoding", "question_id", "agent", "round"),
        *("kind", "model_id", "messages", "response", "answer", "finish_reason", "prompt_tokens"),
        *("completion_tokens", "latency_ms", "error", "created_at", "sha256", "shared_turn_id"),
        *("failure", "tokens_estimated", "thought", "sample"),
        *("task", "question", "gold", "position", "meta", "is_extra", "zero_shot"),
    }


def test_only_the_training_debates_of_the_arm_so_far_are_there(debated):
    with gold_free.copy_training_debates(debated, 1, "multiagent") as connection:
        found = connection.execute("SELECT DISTINCT iteration, arm, split FROM turns").fetchall()
        assert found == [(1, "multiagent", "train")]
        assert connection.execute("SELECT question_id FROM questions ORDER BY ALL").fetchall() == [
            ("q1",),
            ("q2",),
        ]
    with gold_free.copy_training_debates(debated, 2, "multiagent") as connection:
        assert connection.execute("SELECT count(*) FROM turns").fetchall() == [(16,)]
    assert list(debated.path.parent.glob(".selection-*")) == []


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT g.* FROM generation_examples g JOIN questions USING (question_id) WHERE gold <> ''",
        "SELECT g.* FROM generation_examples AS g JOIN verdicts USING (turn_id) WHERE correct",
        "SELECT g.* FROM generation_examples AS g JOIN main.verdicts AS v USING (turn_id) "
        "WHERE v.correct",
        "SELECT g.* FROM generation_examples AS g JOIN votes USING (question_id) WHERE correct",
        "SELECT g.* FROM generation_examples AS g JOIN query_table('verdicts') USING (turn_id) "
        "WHERE correct",
        "SELECT g.* FROM generation_examples AS g, query('SELECT gold FROM questions')",
        "SELECT g.* FROM generation_examples AS g JOIN accuracy USING (iteration)",
        "SELECT g.* FROM generation_examples AS g, read_csv('/etc/passwd')",
        "SELECT g.* FROM generation_examples AS g, 'gold.parquet'",
        "SELECT g.* FROM generation_examples AS g, read_text('https://example.org/gold')",
        "SELECT g.* FROM generation_examples AS g, sniff_csv('gold.csv')",
        "SELECT g.* REPLACE (getenv('HOME') AS response) FROM generation_examples AS g",
    ],
)
def test_gold_files_and_the_network_are_out_of_reach(debated, sql):
    with pytest.raises(SelectionRefused, match=r"mine\.sql"):
        rows(debated, sql)


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM turns",
        "FROM generation_examples; DROP TABLE turns",
        "INSERT INTO turns FROM turns",
        "ATTACH 'run.duckdb' AS run",
        "COPY turns TO 'turns.csv'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "CREATE TABLE mine AS FROM turns",
        "PRAGMA database_list",
        "CALL pragma_version()",
        "EXPLAIN FROM turns",
        "",
        "SELEC",
        "FROM generation_examples WHERE agent = ?",
    ],
)
def test_what_is_not_one_select_is_refused(sql):
    with pytest.raises(SelectionRefused, match=r"mine\.sql"):
        check_selection(TrainingSelection("mine.sql", sql), "generator")


@pytest.mark.parametrize(
    ("sql", "role", "reason"),
    [
        (
            "SELECT 1 AS x",
            "generator",
            r"iteration \(INTEGER\) is missing.*x is not a column of it",
        ),
        ("SELECT *, 1 AS gold FROM generation_examples", "generator", "gold is not a column of it"),
        (
            "SELECT *, true AS correct FROM critic_examples",
            "critic",
            "correct is not a column of it",
        ),
        ("FROM generation_examples", "critic", r"change \(VARCHAR\) is missing"),
        (
            "SELECT * REPLACE (agent::VARCHAR AS agent) FROM generation_examples",
            "generator",
            "agent is VARCHAR and must be INTEGER",
        ),
    ],
)
def test_the_columns_are_those_of_the_view(sql, role, reason):
    with pytest.raises(SelectionRefused, match=reason):
        check_selection(TrainingSelection("mine.sql", sql), role)


def test_the_order_of_the_columns_is_free():
    sql = """SELECT response, messages, sha256, turn_id, question_id, agent, arm, iteration
             FROM generation_examples"""
    check_selection(TrainingSelection("mine.sql", sql), "generator")


FIRST = "FROM turns WHERE kind = 'answer' AND round = 1"
GIVEN = "iteration, arm, agent, question_id, turn_id, messages, response, sha256"


@pytest.mark.parametrize(
    ("sql", "role", "reason"),
    [
        (
            f"SELECT {GIVEN} FROM (SELECT * REPLACE (3 - agent AS agent) {FIRST})",
            "generator",
            r"the row of agent 1, question 'q1': turn \d+ is agent 2's; other rows are wrong too",
        ),
        (
            f"SELECT {GIVEN} FROM (SELECT * REPLACE (turn_id + 1 AS turn_id) {FIRST} LIMIT 1)",
            "generator",
            "is no sampled turn on a training question of this arm$",
        ),
        (
            f"SELECT {GIVEN} FROM turns WHERE round = 2 AND kind = 'answer'",
            "generator",
            "is a later answer, which a critic gives",
        ),
        (
            f"SELECT {GIVEN} {FIRST} UNION ALL SELECT {GIVEN} {FIRST}",
            "generator",
            "there is another row of this agent and question",
        ),
        (
            "SELECT * REPLACE (sha256(response) AS sha256) FROM generation_examples",
            "generator",
            "sha256 is not that of turn",
        ),
        (
            "SELECT * REPLACE (NULL::INTEGER AS agent) FROM generation_examples",
            "generator",
            "the row of agent None, question 'q1': agent, question_id, turn_id or sha256 is NULL",
        ),
        (
            "SELECT * REPLACE (NULL::VARCHAR AS arm) FROM generation_examples",
            "generator",
            r"3 row\(s\) without iteration or arm",
        ),
        (
            "SELECT * REPLACE ('q3' AS question_id) FROM generation_examples WHERE agent = 2",
            "generator",
            "answers question q2$",
        ),
        (
            "SELECT * REPLACE ('better' AS change) FROM critic_examples",
            "critic",
            "change is better, not corrected or kept",
        ),
        (
            "SELECT * REPLACE (turn_id AS first_turn_id) FROM critic_examples",
            "critic",
            "first_turn_id is not the agent's first answer in that debate",
        ),
        ("FROM generation_examples WHERE response::INTEGER > 0", "generator", "fails: .*q1/1/1"),
    ],
)
def test_a_row_that_must_not_be_trained_on_is_named(debated, sql, role, reason):
    check_selection(TrainingSelection("mine.sql", sql), role)
    with pytest.raises(SelectionRefused, match=reason):
        rows(debated, sql, role)


def test_a_selection_that_rolls_dice_is_refused(store, debate_rows):
    marks = {f"q{n}": [(True, True)] for n in range(100)}
    store.write(*debate_rows(marks))
    with pytest.raises(SelectionRefused, match="other rows when run again"):
        rows(store, "FROM generation_examples WHERE random() < 0.5")


def test_datasets_take_what_was_selected_and_say_so(debated):
    own = {"critic": TrainingSelection("kept.sql", KEPT)}
    built = derive_datasets(debated, 1, "multiagent", OWNERS, DatasetRules(w=0.0, selections=own))
    whole = derive_datasets(debated, 1, "other", OWNERS, DatasetRules(w=0.0))
    critic = built[1, "critic"]
    assert (critic.examples, critic.corrected, critic.kept) == (2, 0, 2)
    assert built[2, "critic"].examples == 1
    assert critic.note == f"rows chosen by kept.sql (SHA-256 {own['critic'].sha256[:12]})"
    assert built[1, "generator"].examples == whole[1, "generator"].examples == 2
    assert built[1, "generator"].note is None
    found = debated.rows(
        "SELECT turn_id FROM dataset_examples WHERE dataset_id = ? ORDER BY position",
        [critic.dataset_id],
    )
    chosen = [turn_id for agent, _, turn_id in rows(debated, KEPT, "critic") if agent == 1]
    assert [turn_id for (turn_id,) in found] == sorted(chosen)


def test_the_same_rows_give_the_same_dataset_as_the_built_in_view(debated):
    own = {
        "generator": TrainingSelection("all.sql", "FROM generation_examples"),
        "critic": TrainingSelection("all.sql", "FROM critic_examples"),
    }
    ours = derive_datasets(debated, 1, "multiagent", OWNERS, DatasetRules(selections=own))
    theirs = derive_datasets(debated, 2, "multiagent", OWNERS, DatasetRules())
    for owner in OWNERS:
        assert ours[owner].examples == theirs[owner].examples
    again = derive_datasets(debated, 1, "multiagent", OWNERS, DatasetRules(selections=own))
    assert again == ours
    with pytest.raises(DatasetChanged, match="would now be different"):
        derive_datasets(debated, 1, "multiagent", OWNERS, DatasetRules())


def test_pooled_data_can_be_selected_too(debated):
    own = {"generator": TrainingSelection("short.sql", SHORT)}
    built = derive_datasets(
        debated, 1, "multiagent", [(0, "generator")], DatasetRules(selections=own)
    )
    assert built[0, "generator"].examples == 3


def test_later_passes_do_not_change_what_an_earlier_one_selects(debated):
    newest = """SELECT g.* FROM generation_examples AS g
                WHERE iteration = (SELECT max(iteration) FROM turns)"""
    assert len(rows(debated, newest, iteration=1)) == 3
    assert len(rows(debated, newest, iteration=2)) == 3


def test_a_run_that_is_served_to_readers_can_be_selected_from(debated):
    with Store.open(debated.path.with_name("other.duckdb")) as store:
        with store.cursor() as connection:
            connection.execute("SET GLOBAL enable_external_access = false")
        store.write(Question("q", "sums", "train", "q?", "4"))
        assert rows(store, "FROM generation_examples") == []
