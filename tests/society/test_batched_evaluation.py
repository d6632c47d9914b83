"""Evaluation in batches: the same tables as by single calls, at the batch price, found again."""

import asyncio

import pytest

from society.config import load as experiments
from society.config.load import ConfigError
from society.method.experiment import load_experiment, resolve
from society.runs import folder as folders
from society.runs import runner
from store.ledger import Store
from tests.api_kill_and_resume import CONFIG
from tests.providers.job_account import BASE
from tests.providers.job_server import serving

PRICED = [
    f'prices."{BASE}"={{input_usd=1, output_usd=2, tuned_input_usd=2, tuned_output_usd=4, '
    "training_usd=3, batch_factor=0.5}"
]
SMALL = ["iterations=0", 'evaluation.decodings=["sampled"]']
TABLES = (
    "SELECT iteration, split, decoding, question_id, agent, round, kind, response FROM turns",
    "SELECT iteration, split, decoding, question_id, round, answer, votes FROM votes",
)


@pytest.fixture
def server():
    with serving() as running:
        yield running


@pytest.fixture
def experiment(tmp_path, server, monkeypatch):
    """A function that runs the experiment under a name; returns its database."""
    monkeypatch.setenv("A_KEY", "sk-test-0123456789abcdef")
    path = tmp_path / "batched.toml"
    path.write_text(CONFIG.format(url=server.url, base=BASE))

    def run(name, *overrides):
        given = ['provider.api_key_env="A_KEY"', *SMALL, *PRICED, *overrides]
        config = experiments.load_config(str(path), given)
        folder = folders.locate_run(tmp_path / "runs", name)
        with folders.start_run(folder, config) as store:
            asyncio.run(runner.run_experiment(folder, resolve(config), store, lambda event: None))
        return folder.database

    return run


def tables(database):
    with Store.open(database, read_only=True) as store:
        return [sorted(map(repr, store.rows(sql))) for sql in TABLES]


def usd(database):
    with Store.open(database, read_only=True) as store:
        [(found,)] = store.rows("SELECT sum(usd) FROM spend")
    return found


def test_a_batched_evaluation_gives_the_same_tables_at_the_batch_price(server, experiment):
    single = experiment("single")
    calls = len(server.log("POST", "/chat/completions"))
    batched = experiment("batched", "evaluation.batch=true", "budget_usd=1000")
    assert len(server.log("POST", "/chat/completions")) == calls
    assert tables(batched) == tables(single)
    assert usd(batched) == pytest.approx(usd(single) / 2)
    with Store.open(batched, read_only=True) as store:
        stored = store.rows("SELECT batch_id, json_array_length(custom_ids) FROM batches")
        [(evaluated,)] = store.rows("SELECT count(*) FROM turns")
    # One for each round, and one for the summaries.
    assert len(stored) == len(server.log("POST", "/batches")) == 3
    assert sum(count for _, count in stored) == evaluated
    assert all(batch_id for batch_id, _ in stored)


def test_answers_that_are_paid_for_are_found_again(server, experiment, tmp_path):
    database = experiment("again", "evaluation.batch=true")
    with Store.open(database) as store:
        for table in ("turns", "votes", "verdicts"):
            store.transact(lambda connection, t=table: connection.execute(f"DELETE FROM {t}"))
    before = len(server.log("POST", "/batches"))
    experiment("again", "evaluation.batch=true")
    assert len(server.log("POST", "/batches")) == before
    with Store.open(database, read_only=True) as store:
        assert store.rows("SELECT count(*) > 0 FROM votes") == [(True,)]


def test_batches_need_a_provider_that_has_them(tmp_path):
    path = tmp_path / "local.toml"
    path.write_text('model = "embedded:"\ntask.name = "arithmetic"\nevaluation.batch = true\n')
    with pytest.raises(ConfigError, match=r"evaluation.batch = true, and none of embedded:"):
        load_experiment(str(path))
