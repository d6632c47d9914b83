"""Whole runs with Gemini against the stand-in: unattended, and killed at several points."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from society.cli import app
from store.ledger import Store
from tests.providers.gemini_server import MODEL, TOKEN, Google, serving
from tests.society.whole_run import rows, start

CONFIG = """
model = "gemini:{model}"
iterations = 2
budget_usd = 1.0
task = {{ name = "arithmetic" }}
society = {{ agents = 3, rounds = 2, others = "quoted" }}
sampling = {{ top_p = 1.0, max_tokens = 64 }}
train = {{ questions = 30 }}
datasets = {{ w = 0.0 }}
evaluation = {{ questions = 2, decodings = ["sampled"], batch = {batch} }}
[prices."{model}"]
input_usd = 0.3
output_usd = 2.5
tuned_input_usd = 0.3
tuned_output_usd = 2.5
training_usd = 5.0
[provider]
{provider}
"""
TABLES = (
    "SELECT turn_id, model_id, response, answer FROM turns ORDER BY ALL",
    "SELECT * FROM votes ORDER BY ALL",
    "SELECT dataset_id, examples, sha256 FROM datasets ORDER BY ALL",
    "SELECT model_id, parent_id, dataset_id, job_id FROM models ORDER BY ALL",
    "SELECT job_id, digest, status FROM jobs ORDER BY ALL",
)


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    with serving(monkeypatch, tmp_path) as running:
        yield running


def write(google: Google, folder: Path, batch: str = "false") -> Path:
    path = folder / "gemini.toml"
    table = "\n".join(f"{key} = {value!r}" for key, value in google.settings.items())
    path.write_text(CONFIG.format(model=MODEL, provider=table, batch=batch))
    return path


def contents(database: Path) -> list[object]:
    with Store.open(database, read_only=True) as store:
        return [store.rows(sql) for sql in TABLES]


def require_nothing_twice(google: Google) -> None:
    marks = Counter(job["labels"]["society_digest"] for job in google.jobs.values())
    assert max(marks.values(), default=1) == 1, marks
    datasets = {job["supervisedTuningSpec"]["trainingDatasetUri"] for job in google.jobs.values()}
    assert len(datasets) == len(google.jobs)
    batches = Counter(job["displayName"] for job in google.batches.jobs.values())
    assert max(batches.values(), default=1) == 1, batches
    asked = Counter(
        line["request"]["labels"]["society_request"]
        for job in google.batches.jobs.values()
        for line in google.batches.read(job["inputConfig"]["gcsSource"]["uris"][0])
    )
    assert max(asked.values(), default=1) == 1, asked


def test_two_iterations_of_three_agents_finish_unattended(stand_in, tmp_path):
    folder = start(tmp_path, write(stand_in, tmp_path), name="run")
    require_nothing_twice(stand_in)
    tuned = rows(folder, "SELECT iteration, agent, role, artifact FROM models WHERE artifact <> ''")
    assert len(tuned) == len(stand_in.jobs) >= 3
    assert {iteration for iteration, *_ in tuned} == {1, 2}
    asked = {name for name, _, _ in stand_in.log}
    assert {"POST generateContent", "POST tuningJobs", "GET tuningJobs"} <= asked
    # The second iteration continues from the models of the first.
    assert any("preTunedModel" in body for body in stand_in.asked("POST tuningJobs"))
    [(usd,)] = rows(folder, "SELECT sum(usd) FROM spend")
    assert usd > 0
    names = rows(
        folder, "SELECT table_name FROM duckdb_tables() WHERE NOT internal AND NOT temporary"
    )
    stored = "".join(str(rows(folder, f'SELECT * FROM "{name}"')) for (name,) in names)
    assert stand_in.url in stored
    assert TOKEN not in stored
    assert "PRIVATE KEY" not in stored


KILLS = [
    {"what": "POST batchPredictionJobs", "done": False},
    {"what": "POST batchPredictionJobs", "done": True},
    {"what": "GET batchPredictionJobs", "nth": 3, "done": True},
    {"what": "POST generateContent", "nth": 20, "done": True},
    {"what": "POST generateContent", "nth": 9, "done": False},
    {"what": "POST tuningJobs", "done": False},
    {"what": "POST tuningJobs", "done": True},
    {"what": "GET tuningJobs", "nth": 4, "done": True},
    {"what": "POST batchPredictionJobs", "done": True},
    {"what": "POST generateContent", "nth": 9, "done": True},
]


def run_command(path: Path, folder: Path, google: Google, kill: dict[str, object] | None) -> int:
    """`society run` in a process of its own, perhaps killed; its exit status."""
    program = [sys.executable, "-c", "from society import cli; cli.main()"]
    arguments = ["run", str(path), "--name=run", f"--runs={folder / 'runs'}"]
    with (folder / "output.log").open("a") as log:
        process = subprocess.Popen([*program, *arguments], stdout=log, stderr=log)
        try:
            google.kill = None if kill is None else {"pid": process.pid, **kill}
            return process.wait()
        finally:
            process.kill()


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_ten_kills_make_nothing_twice_and_change_no_table(stand_in, tmp_path):
    """Killed at chat, before and after jobs and batches are created, and while they are read."""
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    whole = start(undisturbed, write(stand_in, undisturbed, "true"), name="run")
    counts = len(stand_in.jobs), len(stand_in.batches.jobs)
    stand_in.jobs.clear()
    stand_in.batches.jobs.clear()
    stand_in.job_s = stand_in.batches.batch_s = 0.5
    path = write(stand_in, tmp_path, "true")
    for kill in KILLS:
        status = run_command(path, tmp_path, stand_in, kill)
        assert status == -signal.SIGKILL, (tmp_path / "output.log").read_text()
        require_nothing_twice(stand_in)
    status = run_command(path, tmp_path, stand_in, None)
    assert status == 0, (tmp_path / "output.log").read_text()
    require_nothing_twice(stand_in)
    assert (len(stand_in.jobs), len(stand_in.batches.jobs)) == counts
    assert contents(tmp_path / "runs" / "run" / "run.duckdb") == contents(whole.database)


def count_usd(folder) -> float:
    [(usd,)] = rows(folder, "SELECT sum(usd) FROM spend")
    return usd


def test_a_batched_evaluation_gives_the_same_tables_at_half_the_price(stand_in, tmp_path):
    tables = (
        "SELECT turn_id, response, prompt_tokens, completion_tokens FROM turns ORDER BY ALL",
        "SELECT * FROM votes ORDER BY ALL",
    )
    single = start(tmp_path, write(stand_in, tmp_path), "iterations=0", name="single")
    asked = len(stand_in.asked("POST generateContent"))
    batched = start(tmp_path, write(stand_in, tmp_path, "true"), "iterations=0", name="batched")
    assert len(stand_in.asked("POST generateContent")) == asked
    assert [rows(batched, sql) for sql in tables] == [rows(single, sql) for sql in tables]
    assert count_usd(batched) == pytest.approx(count_usd(single) / 2)
    [(batches, lines)] = rows(batched, "SELECT count(*), sum(len(custom_ids::JSON[])) FROM batches")
    assert (batches, lines) == (2, asked)
    require_nothing_twice(stand_in)


def test_cancel_ends_a_batch_that_a_killed_run_has_left(stand_in, tmp_path):
    stand_in.batches.batch_s = 600.0
    path = write(stand_in, tmp_path, "true")
    path.write_text(path.read_text().replace("iterations = 2", "iterations = 0"))
    kill = {"what": "POST batchPredictionJobs", "done": True}
    assert run_command(path, tmp_path, stand_in, kill) == -signal.SIGKILL
    done = CliRunner().invoke(app, ["cancel", "run", f"--runs={tmp_path / 'runs'}"])
    assert done.exit_code == 0, done.output
    assert "1 batch(es) cancelled" in done.output
    [job] = stand_in.batches.jobs.values()
    assert job["state"] == "JOB_STATE_CANCELLED"
    stand_in.batches.batch_s = 0.0
    folder = start(tmp_path, path, name="run")
    assert rows(folder, "SELECT count(*) > 0 FROM votes") == [(True,)]


def test_a_failed_validation_is_recorded_and_stops_with_the_remedy(stand_in, tmp_path):
    stand_in.broken["-it1-"] = {"code": 3, "message": "Dataset validation failed"}
    path = write(stand_in, tmp_path)
    with pytest.raises(Exception, match=r"Dataset validation failed .*; look at the file"):
        start(tmp_path, path, "iterations=1", name="run")
    stand_in.broken.clear()
    folder = start(tmp_path, path, "iterations=1", name="run")
    jobs = dict(rows(folder, "SELECT status, count(*) FROM jobs GROUP BY status"))
    assert jobs["failed"] >= 1
    assert jobs["succeeded"] == jobs["failed"]


def test_prune_deletes_tuned_models_and_their_endpoints_at_google(stand_in, tmp_path):
    folder = start(tmp_path, write(stand_in, tmp_path), name="run")
    models = dict(rows(folder, "SELECT model_id, artifact FROM models WHERE artifact <> ''"))

    def prune(*options: str) -> dict[str, object]:
        given = ["prune", "run", "--json", f"--runs={folder.path.parent}", *options]
        done = CliRunner().invoke(app, given)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def list_versions() -> set[tuple[str, str]]:
        found = stand_in.models.versions.items()
        return {(name, version) for name, versions in found for version in versions}

    # Trained further, a model has two versions, and the first one is not needed any more.
    assert {version for _, version in list_versions()} == {"1", "2"}
    plan = prune()
    assert {item["kind"] for item in plan["items"]} == {"vendor model"}
    spare = {models[item["name"]] for item in plan["items"]}
    assert set(models.values()) == set(stand_in.models.endpoints)
    assert spare < set(models.values())
    assert not any(what.startswith("DELETE") for what, *_ in stand_in.log)

    done = prune("--yes")
    assert [item["error"] for item in done["items"]] == [None] * len(spare)
    assert set(stand_in.models.endpoints) == set(models.values()) - spare
    deployed = [each for there in stand_in.models.endpoints.values() for each in there]
    assert list_versions() == {(each["model"], each["modelVersionId"]) for each in deployed}
    assert prune()["items"] == []
    prune("--all", "--yes")
    assert (stand_in.models.endpoints, stand_in.models.versions) == ({}, {})
