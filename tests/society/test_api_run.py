"""Whole experiments through the OpenAI provider against a server that remembers everything."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from finetune.errors import TuningFailed
from providers.errors import ModelNotFound
from society.cli import app
from society.config import load as experiments
from society.method.experiment import resolve
from society.runs import folder as folders
from society.runs import runner
from store.ledger import Store
from tests.api_kill_and_resume import CONFIG
from tests.providers.job_account import BASE
from tests.providers.job_server import Server, serving

EVALUATED = "iteration = 1 AND split = 'eval'"
KEY = "sk-test-0123456789abcdef"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def experiment(tmp_path, server, monkeypatch):
    """A function that runs the experiment; returns the path of its database."""
    monkeypatch.setenv("A_KEY", KEY)
    path = tmp_path / "api.toml"
    path.write_text(CONFIG.format(url=server.url, base=BASE))

    def run(*overrides: str) -> Path:
        config = experiments.load_config(str(path), ['provider.api_key_env="A_KEY"', *overrides])
        folder = folders.locate_run(tmp_path / "runs", "run")
        with folders.start_run(folder, config) as store:
            asyncio.run(runner.run_experiment(folder, resolve(config), store, lambda event: None))
        return folder.database

    return run


def rows(database: Path, sql: str):
    with Store.open(database, read_only=True) as store:
        return store.rows(sql)


def test_two_iterations_of_three_agents_finish_unattended(server, experiment):
    database = experiment()
    state = server.state()
    jobs = list(state["jobs"].values())
    owners = Counter(
        tuple(job["metadata"][key] for key in ("iteration", "agent", "role")) for job in jobs
    )
    assert max(owners.values()) == 1
    assert len(state["files"]) == len(jobs)
    tuned = rows(
        database,
        "SELECT m.iteration, m.agent, m.role, m.artifact, p.artifact, j.provider_job_id, "
        "j.trained_tokens FROM models AS m JOIN models AS p ON p.model_id = m.parent_id "
        "JOIN jobs AS j ON j.job_id = m.job_id ORDER BY ALL",
    )
    assert len(tuned) == len(jobs)
    for iteration, agent, role, artifact, parent, job_id, tokens in tuned:
        job = state["jobs"][job_id]
        assert job["fine_tuned_model"] == artifact
        assert job["model"] == (parent or BASE)
        assert (parent is None) == (iteration == 1)
        assert job["trained_tokens"] == tokens > 0
        assert owners[str(iteration), str(agent), role] == 1
    asked = Counter(entry["body"]["model"] for entry in server.log("POST", "/chat/completions"))
    assert set(asked) == {BASE, *(artifact for _, _, _, artifact, *_ in tuned)}
    assert rows(database, "SELECT count(*) FROM turns") == [(sum(asked.values()),)]
    assert rows(database, "SELECT count(DISTINCT job_id) FROM training_points") == [(len(jobs),)]


def test_what_is_uploaded_is_what_was_sent_and_answered(server, experiment):
    database = experiment("iterations=1")
    sent = {
        (str(entry["body"]["messages"]), entry["body"]["model"])
        for entry in server.log("POST", "/chat/completions")
    }
    contents = server.state()["contents"].values()
    learnt = [json.loads(line)["messages"] for text in contents for line in text.splitlines()]
    assert learnt
    for messages in learnt:
        *prompt, answer = messages
        assert answer["weight"] == 1
        plain = [{"role": m["role"], "content": m["content"]} for m in prompt]
        assert (str(plain), BASE) in sent
        assert [m["weight"] for m in prompt if m["role"] == "assistant"] in ([], [0])
    [(examples,)] = rows(
        database,
        "SELECT sum(examples) FROM datasets JOIN jobs USING (dataset_id, agent, role) "
        "WHERE jobs.status = 'succeeded'",
    )
    assert len(learnt) == examples


def test_a_failed_job_stops_the_run_before_the_next_iteration_and_the_others_are_kept(
    server, experiment, tmp_path
):
    reason = {"code": "invalid_training_file", "message": f"Moderation, {KEY}", "param": None}
    server.tell(fail={"a2-generator-it1-[0-9a-f]{8}-[0-9a-f]{8}$": reason})
    with pytest.raises(TuningFailed, match=r"agent 2, generator, iteration 1.*Moderation") as error:
        experiment()
    assert KEY not in str(error.value)
    before = server.state()["jobs"]
    database = experiment()
    jobs = server.state()["jobs"]
    again = [job for job_id, job in jobs.items() if job_id not in before]
    first = [job for job in again if job["metadata"]["iteration"] == "1"]
    assert [job["metadata"]["name"].endswith("-try2") for job in first] == [True]
    [(failed,)] = rows(database, "SELECT error FROM jobs WHERE status = 'failed'")
    assert failed.startswith("Moderation, [secret]")
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert KEY.encode() not in path.read_bytes(), path


def test_the_answers_of_lost_creations_are_looked_for(server, experiment):
    server.tell(created=["drop", 500, None, 503], uploaded=[500, "drop"])
    experiment("iterations=1")
    state = server.state()
    names = [file["filename"] for file in state["files"].values()]
    assert len(names) == len(set(names)) == len(state["jobs"])


def test_a_model_that_is_still_being_loaded_is_waited_for(server, experiment):
    server.tell(loading=2)
    database = experiment("iterations=1")
    looks = [entry["path"] for entry in server.log("GET") if "/models/" in entry["path"]]
    [(tuned,)] = rows(database, "SELECT count(*) FROM models WHERE artifact IS NOT NULL")
    assert len(looks) == 1 + tuned + 2
    assert rows(database, "SELECT count(*) FROM turns WHERE error IS NOT NULL") == [(0,)]


def ask(folder: Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["ask", "run", "1+2*3+4-5*6", "--runs", str(folder)])
    return done.exit_code, done.output


def test_asking_a_society_whose_models_the_server_has_forgotten_ends_at_once(server, experiment):
    folder = experiment("iterations=1").parent.parent
    status, said = ask(folder)
    assert status == 0, said
    assert "consensus" in said

    server.tell(loading=10**6)
    looked = len(server.log("GET"))
    status, said = ask(folder)
    assert status == 2
    assert "the server has no model 'ft:" in said
    assert len(server.log("GET")) == looked


def test_resuming_waits_for_no_model_that_was_tuned_long_ago(server, experiment, caplog):
    server.tell(loading=2)
    database = experiment("iterations=1", "evaluation.questions=2")
    assert "waiting for the server to make ft:" in caplog.text
    caplog.clear()
    with Store.open(database) as store:
        for table in ("votes", "verdicts", "turns"):
            wanted = "turn_id IN (SELECT turn_id FROM turns WHERE {0})"
            which = wanted if table == "verdicts" else "{0}"
            sql = f"DELETE FROM {table} WHERE {which.format(EVALUATED)}"
            store.transact(lambda connection, sql=sql: connection.execute(sql))
    server.tell(loading=10**6, ended_ago_s=3600)
    with pytest.raises(ModelNotFound, match="the server has no model 'ft:"):
        experiment("iterations=1", "evaluation.questions=2")
    assert "the server no longer has ft:" in caplog.text
    assert "waiting for" not in caplog.text
