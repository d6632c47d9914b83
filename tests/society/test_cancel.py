"""Remote jobs outlive Ctrl-C, and `society cancel` ends them."""

import asyncio
import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from providers.types import ModelRef
from society.cli import app
from society.config import load as experiments
from society.method.experiment import resolve
from society.method.progress import Event, Observer, StageStarted
from society.runs import cancel, runner
from society.runs import folder as folders
from store.ledger import Store
from store.records import Job
from store.spending import Batch
from tests.providers.job_server import Server, serving

BASE = "gpt-4o-mini"
JOBS = 4
DOWN = "http://127.0.0.1:9/v1"


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def process() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def server(process: Server) -> Server:
    process.reset()
    process.tell(base=BASE, job_s=300.0)
    return process


def write_experiment(server: Server) -> Path:
    path = Path("small.toml")
    path.write_text(
        f"""
        model = "openai+{server.url}:{BASE}"
        task.name = "arithmetic"
        society = {{ agents = 2, others = "quoted" }}
        sampling = {{ temperature = 1.0, top_p = 1.0, max_tokens = 64 }}
        train = {{ questions = 40 }}
        datasets = {{ w = 0.0 }}
        evaluation = {{ questions = 2, decodings = ["sampled"] }}
        """
    )
    return path


class Reached(Exception):
    """The run has come as far as it should."""


async def run(path: Path, observer: Observer = lambda event: None) -> None:
    folder = folders.locate_run(Path("runs"), path.stem)
    config = experiments.load_config(str(path))
    with folders.start_run(folder, config) as store:
        await runner.run_experiment(folder, resolve(config), store, observer)


def stop_at_datasets(event: Event) -> None:
    if isinstance(event, StageStarted) and event.stage == "datasets":
        raise Reached


@pytest.fixture(scope="module")
def debated(process, tmp_path_factory) -> Path:
    """The database of the experiment after its training debates."""
    process.tell(base=BASE)
    with contextlib.chdir(tmp_path_factory.mktemp("debated")):
        with pytest.raises(Reached):
            asyncio.run(run(write_experiment(process), stop_at_datasets))
        return Path("runs/small/run.duckdb").absolute()


@pytest.fixture
def under_way(debated, server) -> Path:
    """The file of an experiment that was stopped once all its jobs were created."""
    path = write_experiment(server)
    Path("runs/small").mkdir(parents=True)
    shutil.copy(debated, "runs/small/run.duckdb")
    asyncio.run(stop_when_created(path, server))
    return path


async def stop_when_created(path: Path, server: Server) -> None:
    """Stop a run as Ctrl-C does once all its jobs are created and the run knows their names."""
    going = asyncio.create_task(run(path))
    # The run asks for a job's state once it has stored the job's name.
    while len(await asyncio.to_thread(list_polled, server)) < JOBS:
        assert not going.done(), going
        await asyncio.sleep(0.05)
    going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going


def list_polled(server: Server) -> set[str]:
    """The paths of the jobs whose state was asked for."""
    return {entry["path"] for entry in server.log("GET", "/fine_tuning/jobs/[^/?]+")}


def interrupt(path: Path, server: Server) -> str:
    """What a run says that is stopped with Ctrl-C once all its jobs are created."""
    command = [sys.executable, "-c", "from society import cli; cli.main()", "run", str(path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 90
        while len(server.state()["jobs"]) < JOBS and process.poll() is None:
            assert time.monotonic() < deadline, server.state()["jobs"]
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, said
    return said


def statuses(server: Server) -> Counter:
    return Counter(job["status"] for job in server.state()["jobs"].values())


def stored() -> Counter:
    with Store.open("runs/small/run.duckdb", read_only=True) as store:
        return Counter(job.status for job in store.jobs())


def test_ctrl_c_leaves_remote_jobs_running_and_cancel_ends_them(server):
    path = write_experiment(server)
    said = interrupt(path, server)
    assert f"{JOBS} fine-tuning job(s) still run at the provider" in said
    assert "society cancel small\n" in said
    assert "cancelled" not in statuses(server)

    done = CliRunner().invoke(app, ["cancel", "small"])
    assert done.exit_code == 0, done.output
    assert done.output.count("is cancelled (cancelled)") == JOBS
    assert statuses(server) == {"cancelled": JOBS}
    assert stored() == {"cancelled": JOBS}

    again = CliRunner().invoke(app, ["cancel", "small"])
    assert "no fine-tuning job of this run is under way" in again.output

    server.tell(job_s=0.2)
    assert CliRunner().invoke(app, ["run", str(path)]).exit_code == 0
    assert stored()["succeeded"] == JOBS


def test_a_job_that_has_succeeded_meanwhile_is_kept(server, under_way):
    server.tell(job_s=0.1)
    done = CliRunner().invoke(app, ["cancel", "small"])
    assert done.exit_code == 0, done.output
    assert done.output.count("had succeeded before; resuming the run adopts its model") == JOBS
    assert statuses(server) == {"succeeded": JOBS}

    assert CliRunner().invoke(app, ["run", str(under_way)]).exit_code == 0
    assert len(server.log("POST", "/fine_tuning/jobs")) == JOBS


def test_a_job_whose_id_is_not_known_is_looked_for_by_its_description(server, under_way):
    with Store.open("runs/small/run.duckdb") as store:
        forgotten = store.jobs()[0]
        store.transact(
            lambda connection: connection.execute(
                "UPDATE jobs SET provider_job_id = NULL, status = 'intent' WHERE job_id = ?",
                [forgotten.job_id],
            )
        )
    done = CliRunner().invoke(app, ["cancel", "small"])
    assert done.exit_code == 0, done.output
    assert statuses(server) == {"cancelled": JOBS}


def test_a_server_that_refuses_leaves_the_job_as_it_is(server, under_way):
    server.tell(retrieve=[{"status": 401, "message": "the key is revoked"}] * JOBS)
    done = CliRunner().invoke(app, ["cancel", "small"])
    assert done.exit_code == 1
    assert done.output.count("not cancelled") == JOBS
    assert "cancelled" not in stored()


async def test_a_server_that_is_down_is_given_up_for_all_jobs_together(server, under_way):
    folder = folders.locate_run(Path("runs"), "small")
    config = experiments.load_config(str(under_way)).model_copy(
        update={"model": f"openai+{DOWN}:{BASE}"}
    )
    told: list[str] = []
    waits = cancel.CancelLimits(call_s=3.0, report_every_s=0.5)
    with Store.open(folder.database) as store:
        run = store.run()
        assert run is not None
        store.write(dataclasses.replace(run, config=config.to_json()))
        assert await cancel.cancel(folder, store, told.append, waits) == JOBS
    assert [line for line in told if line.startswith(f"waiting for the server: {JOBS} of {JOBS}")]
    assert len([line for line in told if "not cancelled: the connection" in line]) == JOBS
    assert "cancelled" not in stored()


async def test_a_server_that_does_not_answer_is_given_up_for_all_jobs_together(server, under_way):
    server.tell(slow={f"GET /fine_tuning/jobs/{job}": 3600 for job in server.state()["jobs"]})
    folder = folders.locate_run(Path("runs"), "small")
    told: list[str] = []
    with Store.open(folder.database) as store:
        waits = cancel.CancelLimits(total_s=2.0, each_s=0.0, report_every_s=0.5)
        assert await cancel.cancel(folder, store, told.append, waits) == JOBS
    assert len([line for line in told if "the server has not answered" in line]) == JOBS
    server.tell(slow={})
    done = await asyncio.to_thread(CliRunner().invoke, app, ["cancel", "small"])
    assert done.exit_code == 0, done.output
    assert statuses(server) == {"cancelled": JOBS}


def test_nothing_is_asked_of_a_local_model(tmp_path):
    folder = folders.locate_run(tmp_path, "local")
    config = experiments.load_config("demo")
    with folders.start_run(folder, config) as store:
        store.write(Job("job", 1, "multiagent", 1, "generator", "dataset", "digest", "running"))
        told: list[str] = []
        assert asyncio.run(cancel.cancel(folder, store, told.append)) == 0
        assert store.jobs()[0].status == "running"
    assert told == [
        "iteration 1, agent 1, generator: trained in the process of the run, which has ended"
    ]
    assert cancel.list_remote_work([folder.database]) == []


def test_only_jobs_and_batches_that_exist_go_on(tmp_path):
    folder = folders.locate_run(tmp_path, "batched")
    config = experiments.load_config("demo", [f'model="openai+{DOWN}:{BASE}"'])
    job = Job("meant", 1, "multiagent", 1, "generator", "dataset", "digest", "intent")
    created = dataclasses.replace(job, job_id="created", status="running", provider_job_id="ft-1")
    with folders.start_run(folder, config) as store:
        store.write(job, Batch("meant", config.model, '["a", "b"]', None))
    assert cancel.list_remote_work([folder.database]) == []
    with Store.open(folder.database) as store:
        store.write(created, Batch("created", config.model, '["c"]', "batch-1"))
    assert cancel.list_remote_work([folder.database]) == ["1 fine-tuning job(s)", "1 batch(es)"]
    assert cancel.list_remote_work([folder.database] * 2) == ["2 fine-tuning job(s)", "2 batch(es)"]


def test_of_several_runs_one_that_is_in_use_stops_no_other(tmp_path):
    several = [folders.locate_run(tmp_path, name) for name in ("a", "b")]
    for folder in several:
        folders.start_run(folder, experiments.load_config("demo")).close()
    told: list[str] = []
    with Store.open(several[1].database):
        assert asyncio.run(cancel.cancel_all(several, told.append)) == 1
    assert "run a:\nno fine-tuning job of this run is under way" in told
    [other] = [text for text in told if text.startswith("run b:\nskipped: ")]
    assert "open for writing already" in other


def test_a_run_that_is_being_worked_on_is_left_alone(tmp_path):
    folder = folders.locate_run(tmp_path / "runs", "busy")
    code = (
        "import sys, duckdb\nheld = duckdb.connect(sys.argv[1])\nprint('open', flush=True)\ninput()"
    )
    with folders.start_run(folder, experiments.load_config("demo")):
        pass
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(folder.database)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        done = CliRunner().invoke(app, ["cancel", "busy"])
        assert done.exit_code == 2
        assert "in use by process" in done.output
    finally:
        holder.communicate("\n")


def test_a_job_is_described_as_it_was_when_it_was_submitted(server, under_way):
    with Store.open("runs/small/run.duckdb", read_only=True) as store:
        config = experiments.load_config(str(under_way))
        for job in store.jobs():
            spec = cancel.rebuild_spec(store, config, "small", job)
            assert (spec.name, spec.digest) == (job.job_id, job.digest)
            assert spec.start == ModelRef(config.model, config.model)
