"""Whole experiments at Bedrock: jobs, deployments and files are made once, whatever happens."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator

import boto3  # noqa: F401
import pytest
from typer.testing import CliRunner

import providers.bedrock.provider  # noqa: F401
from society.cli import app
from society.method.progress import Note
from society.runs import folder as folders
from tests.forked_command import ForkedCommand
from tests.providers.bedrock_account import BASE, BUCKET, REGION, ROLE
from tests.providers.bedrock_server import (
    KEY_ID,
    SECRET,
    TOKEN,
    BedrockServer,
    serving_bedrock,
)
from tests.society.whole_run import rows, start

CONFIG = """
model = "bedrock:{base}"
iterations = 2
[provider]
endpoint_url = "{url}"
region = "{region}"
role_arn = "{role}"
bucket = "{bucket}/tests"
poll_s = 0.1
listing_lag_s = 0.2
give_up_after_s = 20
limits = {{ max_concurrent = 4 }}
[task]
name = "arithmetic"
[society]
agents = 3
rounds = 2
[sampling]
max_tokens = 64
[train]
questions = 16
[evaluation]
questions = 2
decodings = ["sampled"]
[datasets]
critic_loss = "all"
[finetune]
learning_rate = 1e-5
"""
JOBS = "/model-customization-jobs"
DEPLOYMENTS = "/model-customization/custom-model-deployments"
TABLES = {
    "turns": "turn_id, model_id, messages, response, answer, finish_reason, completion_tokens",
    "votes": "*",
    "datasets": "dataset_id, iteration, arm, agent, role, examples, sha256",
    "models": "model_id, provider, parent_id, artifact, dataset_id, job_id",
    "jobs": "job_id, dataset_id, digest, status",
    "training_points": "job_id, step, loss",
}


@pytest.fixture(autouse=True)
def credentials(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)


@pytest.fixture(scope="module")
def process() -> Iterator[BedrockServer]:
    with serving_bedrock() as running:
        yield running


@pytest.fixture
def server(process):
    process.reset()
    return process


@pytest.fixture
def experiment(tmp_path, server):
    path = tmp_path / "bedrock.toml"
    text = CONFIG.format(base=BASE, url=server.url, region=REGION, role=ROLE, bucket=BUCKET)
    path.write_text(text)
    return path


def contents(folder):
    return {
        table: sorted(rows(folder, f"SELECT {c} FROM {table}"), key=repr)
        for table, c in TABLES.items()
    }


def require_nothing_twice(server):
    """No two jobs or deployments for one model, no two files with the same data."""
    state = server.state()
    tokens = Counter(job["clientRequestToken"] for job in state["jobs"].values())
    models = Counter(each["modelArn"] for each in state["deployments"].values())
    owners = Counter(name.rsplit("-", 2)[0] for name in state["jobs"])
    assert max([*tokens.values(), *models.values(), *owners.values()], default=1) == 1
    files = Counter(text for name, text in state["objects"].items() if name.endswith(".jsonl"))
    assert max(files.values(), default=1) == 1


def test_a_run_that_is_over_says_what_stays_deployed_and_cancel_deletes_it(
    server, experiment, tmp_path
):
    told = []
    folder = start(tmp_path, experiment, "iterations=1", observe=told.append)
    [note] = [e.text for e in told if isinstance(e, Note) and "deployed" in e.text]
    assert "6 tuned model(s) stay deployed, at no price by the hour (tokens are billed)" in note
    done = CliRunner().invoke(app, ["cancel", "run", f"--runs={folder.path.parent}"])
    assert done.exit_code == 0, done.output
    assert "6 deployment(s) deleted" in done.output
    assert server.state()["deployments"] == {}
    again = start(tmp_path, experiment, "iterations=2")
    assert rows(again, "SELECT count(*) FROM turns WHERE finish_reason = 'error'") == [(0,)]
    assert len(server.state()["jobs"]) == 12
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for secret in (KEY_ID, SECRET, TOKEN):
        assert secret.encode() not in stored


def test_two_iterations_of_three_agents_finish_unattended(server, experiment, tmp_path):
    folder = start(tmp_path, experiment)
    state = server.state()
    require_nothing_twice(server)
    tuned = rows(
        folder,
        "SELECT m.iteration, m.artifact, p.artifact, j.provider_job_id FROM models AS m "
        "JOIN models AS p ON p.model_id = m.parent_id JOIN jobs AS j ON j.job_id = m.job_id",
    )
    uploads = Counter(entry["path"] for entry in server.log("PUT"))
    assert set(uploads.values()) == {1}
    assert len(tuned) == len(state["jobs"]) == len(state["deployments"]) == 12
    jobs = {job["jobArn"]: job for job in state["jobs"].values()}
    started = {
        e["body"]["jobName"]: e["body"]["baseModelIdentifier"] for e in server.log("POST", JOBS)
    }
    for iteration, artifact, parent, job_id in tuned:
        assert jobs[job_id]["outputModelArn"] == artifact
        assert started[jobs[job_id]["jobName"]] == (parent or f"{BASE}:128k")
        assert (parent is None) == (iteration == 1)
    asked = Counter(entry["path"] for entry in server.log("POST", "/model/.*"))
    arns = {each["customModelDeploymentArn"] for each in state["deployments"].values()}
    assert set(asked) == {f"/model/{name}/converse" for name in (BASE, *arns)}
    assert rows(folder, "SELECT count(*) FROM turns") == [(sum(asked.values()),)]
    assert rows(folder, "SELECT count(DISTINCT job_id) FROM training_points") == [(12,)]


NAME = "--name=run"
KILLS = [
    {"method": "PUT", "path": ".*-training.jsonl", "nth": 2, "done": True},
    {"method": "POST", "path": JOBS, "nth": 1, "done": False},
    {"method": "POST", "path": JOBS, "nth": 3, "done": True},
    {"method": "GET", "path": f"{JOBS}/arn.*", "nth": 4, "done": True},
    {"method": "POST", "path": DEPLOYMENTS, "nth": 2, "done": True},
    {"method": "POST", "path": DEPLOYMENTS, "nth": 2, "done": False},
    {"method": "GET", "path": f"{DEPLOYMENTS}/.*", "nth": 3, "done": True},
    {"method": "POST", "path": "/model/arn.*", "nth": 3, "done": True},
    {"method": "POST", "path": JOBS, "nth": 2, "done": True},
    {"method": "POST", "path": DEPLOYMENTS, "nth": 1, "done": True},
]


@pytest.mark.long
def test_ten_kills_make_no_job_deployment_or_file_twice(server, experiment, tmp_path):
    expected = contents(start(tmp_path, experiment))
    counts = count_made(server)
    server.reset()
    folder = tmp_path / "killed"

    def require_the_same() -> None:
        require_nothing_twice(server)
        assert count_made(server) == counts
        found = contents(folders.locate_run(folder, "run"))
        assert [table for table in TABLES if found[table] != expected[table]] == []

    with (tmp_path / "output.log").open("a") as log:

        def run(kill: dict[str, object] | None) -> int:
            command = ForkedCommand.start(["run", str(experiment), f"--runs={folder}", NAME], log)
            server.tell(kill=kill and {"pid": command.pid, **kill})
            status = command.wait()
            server.tell(kill=None)
            return status

        for number, request in enumerate(KILLS):
            if (status := run(request)) == 0:
                # What was on its way at the kills before was more than usual, and nothing is left
                # to be killed: the next run begins anew.
                require_the_same()
                server.reset()
                folder = tmp_path / f"killed-{number}"
                status = run(request)
            assert status == -signal.SIGKILL, (request, (tmp_path / "output.log").read_text())
            require_nothing_twice(server)
        assert run(None) == 0
    require_the_same()


def count_made(server) -> tuple[int, int]:
    state = server.state()
    return len(state["jobs"]), len(state["deployments"])
