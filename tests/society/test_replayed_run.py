"""A finished run, replayed through the whole loop at no cost: the same, or re-analysed."""

import asyncio

import pytest

from providers.replay import TranscriptMismatch
from society.config import load as experiments
from society.method.experiment import resolve
from society.runs import folder as folders
from society.runs import runner
from store.ledger import Store

SAME = {
    "turns": "* EXCLUDE (created_at, model_id)",
    "votes": "*",
    "verdicts": "*",
    "questions": "*",
    "datasets": "* EXCLUDE created_at",
    "dataset_examples": "*",
    "accuracy": "*",
    "consensus": "*",
    "pseudo_labels": "*",
}


def rows(folder, sql):
    with Store.open(folder.database, read_only=True) as store:
        return store.rows(sql)


def carry_out(tmp_path, experiment, name, *overrides):
    config = experiments.load_config(str(experiment), overrides)
    folder = folders.locate_run(tmp_path / "runs", name)
    with folders.start_run(folder, config) as store:
        asyncio.run(runner.run_experiment(folder, resolve(config), store, lambda event: None))
    return folder


@pytest.fixture
def held(tmp_path, experiment):
    """Two iterations; agent 3 errs, so the evaluations' critics are shown different things."""
    return carry_out(tmp_path, experiment, "held")


def replay(tmp_path, experiment, held, name, *overrides):
    return carry_out(tmp_path, experiment, name, f'model="replay:{held.path}"', *overrides)


def assert_same(mine, theirs, table):
    """Equal values in every row; a sum of floats may differ in its last bits."""
    assert len(mine) == len(theirs), table
    for row, other in zip(mine, theirs, strict=True):
        for value, expected in zip(row, other, strict=True):
            close = pytest.approx(expected, rel=1e-12) if isinstance(expected, float) else expected
            assert value == close, table


def test_the_same_experiment_gives_the_same_tables(tmp_path, experiment, held):
    again = replay(tmp_path, experiment, held, "again")
    for table, columns in SAME.items():
        sql = f"SELECT {columns} FROM {table} ORDER BY ALL"
        assert_same(rows(again, sql), rows(held, sql), table)
    jobs = "SELECT iteration, agent, role, status FROM jobs ORDER BY ALL"
    assert rows(again, jobs) == rows(held, jobs)


def test_a_replay_can_be_replayed(tmp_path, experiment, held):
    again = replay(tmp_path, experiment, held, "again")
    once_more = replay(tmp_path, experiment, again, "once-more")
    sql = f"SELECT {SAME['turns']} FROM turns ORDER BY ALL"
    assert rows(once_more, sql) == rows(held, sql)


def test_every_evaluation_is_that_of_its_own_iteration(tmp_path, experiment, held):
    with Store.open(held.database) as store:
        store.transact(
            lambda connection: connection.execute(
                "UPDATE turns SET response = 'society ' || iteration || ': ' || response "
                "WHERE split = 'eval' AND round = 2 AND kind = 'answer'"
            )
        )
    again = replay(tmp_path, experiment, held, "again")
    sql = "SELECT response FROM turns WHERE split = 'eval' ORDER BY turn_id"
    assert rows(again, sql) == rows(held, sql)
    [(marked,)] = rows(again, "SELECT count(*) FROM turns WHERE response LIKE 'society 2: %'")
    assert marked == 3 * 3 * 2


def test_other_rules_for_datasets_and_ties_are_applied_to_the_same_words(
    tmp_path, experiment, held
):
    again = replay(tmp_path, experiment, held, "again", "datasets.w=1.0", "consensus.ties=first")
    sql = "SELECT turn_id, response FROM turns ORDER BY ALL"
    assert rows(again, sql) == rows(held, sql)
    kept = "SELECT sum(kept) FROM datasets WHERE agent = 3"
    assert rows(held, kept) != [(0,)]
    assert rows(again, kept) == [(0,)]


def test_fewer_agents_and_one_round_are_answered_from_a_larger_debate(tmp_path, experiment, held):
    again = replay(tmp_path, experiment, held, "again", "society.agents=2", "society.rounds=1")
    sql = "SELECT turn_id, response FROM turns WHERE agent < 3 AND round = 1 ORDER BY ALL"
    assert rows(again, "SELECT turn_id, response FROM turns ORDER BY ALL") == rows(held, sql)


def test_a_setting_that_changes_the_prompts_stops_the_run_and_is_named(tmp_path, experiment, held):
    changed = (tmp_path, experiment, held, "quoted", "society.others=quoted")
    with pytest.raises(TranscriptMismatch, match=r"society\.others = 'summarized'"):
        replay(*changed)
    [(errors,)] = rows(
        folders.locate_run(tmp_path / "runs", "quoted"),
        "SELECT count(*) FROM turns WHERE error <> ''",
    )
    assert errors == 0
    by_position = replay(*changed[:3], "by-position", *changed[4:], 'provider.match="position"')
    sql = "SELECT turn_id, response, answer FROM turns WHERE kind = 'answer' ORDER BY ALL"
    assert rows(by_position, sql) == rows(held, sql)


def test_a_replay_goes_on_where_it_stopped(tmp_path, experiment, held):
    part = replay(tmp_path, experiment, held, "again", "iterations=1")
    whole = replay(tmp_path, experiment, held, "again")
    assert part == whole
    sql = f"SELECT {SAME['turns']} FROM turns ORDER BY ALL"
    assert rows(whole, sql) == rows(held, sql)


def test_a_run_cannot_replay_itself(tmp_path, experiment, held):
    config = experiments.load_config(str(experiment), [f'model="replay:{held.path}"'])
    with (
        Store.open(held.database) as store,
        pytest.raises(ValueError, match="into a run of another name"),
    ):
        asyncio.run(runner.run_experiment(held, resolve(config), store, lambda event: None))
