"""datasets.generation and datasets.critic: the user's own SQL in a whole run."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from society.cli import app
from store.ledger import Store

KEPT = "SELECT *\nFROM critic_examples\nWHERE change = 'kept'\n"
FIRST = """
FROM generation_examples
WHERE question_id = (SELECT question_id FROM questions WHERE position = 0)
"""


@pytest.fixture
def run(experiment, tmp_path, monkeypatch):
    """Run the scripted experiment with more settings; gives status and what it said."""
    monkeypatch.chdir(tmp_path)

    def call(*settings: str, config: str = str(experiment)) -> tuple[int, str]:
        given = [word for each in ("iterations=1", *settings) for word in ("--set", each)]
        done = CliRunner().invoke(app, ["run", config, "--name", "own", *given])
        return done.exit_code, done.output

    return call


def stored(tmp_path, sql):
    with Store.open(tmp_path / "runs/own/run.duckdb", read_only=True) as store:
        return store.rows(sql)


def test_both_roles_learn_what_the_files_select(run, tmp_path):
    (tmp_path / "kept.sql").write_text(KEPT)
    (tmp_path / "first.sql").write_text(FIRST)
    status, output = run("datasets.critic=kept.sql", "datasets.generation=first.sql")
    assert status == 0, output
    assert "rows chosen by kept.sql (SHA-256 " in output
    found = stored(
        tmp_path,
        "SELECT role, agent, examples, corrected, note[:14] FROM datasets WHERE iteration = 1 "
        "ORDER BY ALL",
    )
    assert found == [
        ("critic", 1, 4, 0, "rows chosen by"),
        ("critic", 2, 4, 0, "rows chosen by"),
        ("critic", 3, 1, 0, "rows chosen by"),
        *(("generator", agent, 1, None, "rows chosen by") for agent in (1, 2, 3)),
    ]


def test_the_text_is_kept_with_the_run_and_a_changed_file_is_refused(run, tmp_path):
    file = tmp_path / "kept.sql"
    file.write_text(KEPT)
    assert run("datasets.critic=kept.sql")[0] == 0
    [(config,)] = stored(tmp_path, "SELECT config FROM runs")
    section = json.loads(config)["datasets"]["critic"]
    assert (section["file"], section["text"], len(section["sha256"])) == ("kept.sql", KEPT, 64)
    assert run("datasets.critic=kept.sql")[0] == 0
    file.write_text(KEPT.replace("'kept'", "'corrected'"))
    status, output = run("datasets.critic=kept.sql")
    assert status == 2
    assert "datasets.critic.text:" in output
    assert "    -WHERE change = 'kept'\n    +WHERE change = 'corrected'" in output
    file.unlink()
    status, output = run(config="runs/own/config.toml")
    assert status == 0, output
    whole = (tmp_path / "runs/own/config.toml").read_text()
    (tmp_path / "other.toml").write_text(whole.replace("'kept'", "'corrected'"))
    status, output = run(config="other.toml")
    assert status == 2
    assert "does not have the SHA-256 beside it" in output


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "SELECT c.* FROM critic_examples AS c JOIN verdicts USING (turn_id) WHERE correct",
            "gold",
        ),
        ("SELECT * FROM generation_examples", "change (VARCHAR) is missing"),
        ("DROP TABLE turns", "must be one SELECT"),
        (None, "cannot read 'kept.sql'"),
    ],
)
def test_a_bad_file_is_refused_before_anything_is_made(run, tmp_path, text, reason):
    if text is not None:
        (tmp_path / "kept.sql").write_text(text)
    status, output = run("datasets.critic=kept.sql")
    assert status == 2
    assert "datasets.critic" in output
    assert reason in output
    assert not (tmp_path / "runs").exists()


def test_a_selection_for_critics_needs_critics(run, tmp_path):
    (tmp_path / "kept.sql").write_text(KEPT)
    status, output = run("datasets.critic=kept.sql", "society.rounds=1")
    assert status == 2
    assert "no critic is trained" in output


def test_a_row_that_must_not_be_learnt_stops_the_run_and_is_named(run, tmp_path):
    (tmp_path / "swap.sql").write_text(
        "SELECT * REPLACE (agent % 3 + 1 AS agent) FROM generation_examples"
    )
    status, output = run("datasets.generation=swap.sql")
    assert status == 1
    assert "swap.sql: the row of agent 1, question" in output
    assert "resume with" in output
    assert stored(tmp_path, "SELECT count(*) FROM datasets") == [(0,)]
