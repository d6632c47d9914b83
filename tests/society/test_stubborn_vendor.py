"""What goes wrong at a vendor of fine-tuning, and must neither stop a run nor pay twice."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune.errors import TuningFailed
from society.config import load as experiments
from society.config.load import ConfigError
from society.method.experiment import resolve
from society.method.progress import Note, StageStarted
from society.runs import folder as folders
from society.runs import runner
from store.ledger import Store
from tests.api_kill_and_resume import CONFIG
from tests.providers.job_account import BASE
from tests.providers.job_server import Server, serving

SMALL = [
    "iterations=1",
    "evaluation.questions=2",
    'evaluation.decodings=["sampled"]',
    "datasets.w=0",
    "provider.listing_lag_s=0.2",
    'provider.api_key_env="A_KEY"',
]
KEY = "sk-test-0123456789abcdef"
JOBS = "/fine_tuning/jobs"
FIRST = "a2-generator-it1-[0-9a-f]{8}-[0-9a-f]{8}$"
"""The suffix of one agent's first attempt."""


@pytest.fixture(scope="module")
def process() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def server(process: Server) -> Server:
    process.reset()
    process.tell(job_s=0.05)
    return process


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("A_KEY", KEY)


class Experiment:
    """The experiment at a server, run in a folder."""

    def __init__(self, folder: Path, server: Server) -> None:
        self._folder = folder
        self._config = folder / "api.toml"
        self._config.write_text(CONFIG.format(url=server.url, base=BASE))
        self.database = folder / "runs" / "run" / "run.duckdb"

    def __call__(
        self, *overrides: str, within_s: float | None = None, until: str | None = None
    ) -> list[str]:
        """Run to the end, or until a stage begins; returns what is said on the way."""
        config = experiments.load_config(str(self._config), [*SMALL, *overrides])
        folder = folders.locate_run(self._folder / "runs", "run")
        said: list[str] = []

        def observe(event: object) -> None:
            if isinstance(event, Note):
                said.append(event.text)
            if isinstance(event, StageStarted) and event.stage == until:
                raise Reached

        with folders.start_run(folder, config) as store:
            going = runner.run_experiment(folder, resolve(config), store, observe)
            asyncio.run(asyncio.wait_for(going, within_s))
        return said


class Reached(Exception):
    """The run has come as far as it should."""


@pytest.fixture(scope="module")
def debated(tmp_path_factory, process: Server) -> Path:
    """The database after the training debates: with vendors, what matters here begins there."""
    held = Experiment(tmp_path_factory.mktemp("debated"), process)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("A_KEY", KEY)
        with pytest.raises(Reached):
            held(until="datasets")
    return held.database


@pytest.fixture
def unbegun(tmp_path, server) -> Experiment:
    """An experiment that has not been started."""
    return Experiment(tmp_path, server)


@pytest.fixture
def experiment(unbegun, debated) -> Experiment:
    """An experiment whose training debates are held, and that has trained nothing."""
    unbegun.database.parent.mkdir(parents=True)
    shutil.copy(debated, unbegun.database)
    return unbegun


def jobs_of(database: Path):
    """The stored jobs that had enough to learn."""
    with Store.open(database, read_only=True) as store:
        return [job for job in store.jobs() if "examples" not in (job.error or "")]


def owners(server: Server) -> Counter[tuple[str, ...]]:
    jobs = server.state()["jobs"].values()
    return Counter(tuple(job["metadata"][key] for key in ("agent", "role")) for job in jobs)


@pytest.mark.parametrize("failure", [503, 504, 500, "drop"])
def test_what_was_not_created_is_created_in_the_same_start(server, experiment, failure):
    server.tell(create=[failure])
    experiment()
    tuned = [job for job in jobs_of(experiment.database) if job.status == "succeeded"]
    assert tuned
    assert len(server.state()["jobs"]) == len(tuned)
    assert len(server.log("POST", JOBS)) == len(tuned) + 1
    assert len(server.state()["files"]) == len(tuned)


@pytest.mark.parametrize("failure", [502, "drop"])
def test_what_was_created_is_found_though_the_list_lags(server, experiment, failure):
    server.tell(created=[failure], lag=4)
    experiment()
    assert set(owners(server).values()) == {1}
    assert len(server.log("POST", JOBS)) == len(server.state()["jobs"])


def test_a_success_that_cannot_be_read_is_never_sent_again(server, experiment):
    server.tell(refuse={f"POST {JOBS}": {"text": "<html>ok</html>"}})
    with pytest.raises(TuningFailed, match="it is unknown whether job"):
        experiment()
    asked = len(server.log("POST", JOBS))
    assert {job.status for job in jobs_of(experiment.database)} == {"intent"}
    assert asked == len(jobs_of(experiment.database))
    server.tell(refuse={})
    experiment()
    assert {job.status for job in jobs_of(experiment.database)} == {"succeeded"}


def test_a_server_that_goes_on_failing_is_given_up_with_its_reason(server, experiment):
    server.tell(create=[{"status": 503, "message": "out of nodes"}] * 50)
    with pytest.raises(TuningFailed, match=r"it is unknown.*out of nodes"):
        experiment()
    stored = jobs_of(experiment.database)
    assert len(server.log("POST", JOBS)) == 3 * len(stored)
    server.tell(create=[])
    experiment()
    assert set(owners(server).values()) == {1}


@pytest.mark.parametrize(
    "wish",
    [403, 405, 500, {"text": '{"data": 3}'}],
)
def test_absent_events_and_checkpoints_do_not_stop_a_healthy_job(server, experiment, wish):
    server.tell(refuse={f"GET {JOBS}/.*/(events|checkpoints)": wish})
    said = experiment()
    assert {job.status for job in jobs_of(experiment.database)} == {"succeeded"}
    assert len([text for text in said if "no loss curve" in text]) == 1


@pytest.mark.parametrize("wish", [403, 405, {"text": "[]"}])
def test_a_list_of_files_that_is_refused_costs_an_upload_at_most(server, experiment, wish):
    server.tell(refuse={"GET /files": wish})
    experiment("provider.max_attempts=2")
    assert {job.status for job in jobs_of(experiment.database)} == {"succeeded"}
    assert set(owners(server).values()) == {1}


def test_oddly_typed_events_checkpoints_and_jobs_are_read_as_far_as_they_go(server, experiment):
    step = {"step": "1e12", "train_loss": None, "total_steps": {}}
    odd = [
        {"id": "e1", "created_at": "2026-01-01T00:00:00Z", "level": "error", "message": None},
        {"id": "e2", "created_at": None, "level": "error", "message": "queue", "data": [1]},
        {"id": "e3", "message": 5, "data": step},
        {"id": "e4", "message": "Step 2/4: training loss=0.25", "data": None},
    ]
    point = {"id": "c", "step_number": None, "fine_tuned_model_checkpoint": {"x": 1}}
    server.tell(
        refuse={
            f"GET {JOBS}/.*/events": {"text": _listing(odd)},
            f"GET {JOBS}/.*/checkpoints": {"text": _listing([point])},
        }
    )
    said = experiment()
    assert not [text for text in said if "no loss curve" in text]
    with Store.open(experiment.database, read_only=True) as store:
        assert set(store.rows("SELECT step, loss FROM training_points")) == {(2, 0.25)}
        assert store.rows("SELECT count(*) FROM checkpoints") == [(0,)]


def test_a_failure_names_the_vendors_job_and_file_and_the_rerun_uploads_nothing_again(
    server, experiment
):
    reason = {"code": "invalid_training_file", "message": "Moderation", "param": None}
    server.tell(fail={FIRST: reason})
    with pytest.raises(TuningFailed) as error:
        experiment()
    [failed] = [job for job in jobs_of(experiment.database) if job.status == "failed"]
    vendor = server.state()["jobs"][failed.provider_job_id]
    for part in (vendor["id"], vendor["training_file"], 'finetune.on_failure = "keep"'):
        assert part in str(error.value)
    files = len(server.state()["files"])
    experiment()
    again = [j for j in server.state()["jobs"].values() if j["metadata"]["name"].endswith("-try2")]
    assert [job["training_file"] for job in again] == [vendor["training_file"]]
    assert len(server.state()["files"]) == files


def test_a_failed_job_is_tried_again_with_other_settings_and_the_others_keep_theirs(
    server, experiment
):
    server.tell(fail={FIRST: {"code": "invalid_hyperparameter", "message": "too fast"}})
    with pytest.raises(TuningFailed, match="too fast"):
        experiment()
    before = server.state()["jobs"]
    experiment("finetune.learning_rate_multiplier=0.5", "finetune.batch_size=4")
    again = [job for job_id, job in server.state()["jobs"].items() if job_id not in before]
    tried = [job["hyperparameters"] for job in again]
    assert tried == [{"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 0.5}]
    assert len(server.state()["files"]) == len(before)
    stored = {job.job_id: job for job in jobs_of(experiment.database)}
    rates = {
        name: json.loads(job.settings)["hyperparameters"]["learning_rate_multiplier"]
        for name, job in stored.items()
    }
    assert (
        {name for name, rate in rates.items() if rate == 0.5}
        == {again[0]["metadata"]["name"]}
        == {name for name in stored if name.endswith("-try2")}
    )
    experiment("finetune.learning_rate_multiplier=0.5", "finetune.batch_size=4")
    assert len(server.state()["jobs"]) == len(before) + 1
    with pytest.raises(ConfigError, match=r"learning_rate_multiplier: stored 0\.5, now 3\.0"):
        experiment("finetune.learning_rate_multiplier=3", "finetune.batch_size=4")
    experiment("finetune.batch_size=8", "iterations=2")
    second = [j for j in server.state()["jobs"].values() if j["metadata"]["iteration"] == "2"]
    assert {job["hyperparameters"]["batch_size"] for job in second} == {8}
    assert {job.status for job in jobs_of(experiment.database)} == {"succeeded", "failed"}


def test_jobs_under_way_are_taken_up_with_the_settings_they_have(server, experiment):
    server.tell(job_s=3600)
    with pytest.raises(TimeoutError):
        experiment(within_s=8)
    assert {job.status for job in jobs_of(experiment.database)} <= {"submitted", "running"}
    created = len(server.state()["jobs"])
    with pytest.raises(ConfigError, match="training of iteration 1 has begun"):
        experiment("finetune.batch_size=8")
    server.tell(job_s=0.05)
    experiment()
    assert len(server.state()["jobs"]) == created


def test_a_server_that_tells_jobs_apart_by_their_files_gets_them_again(server, experiment):
    server.tell(drop_metadata=True, drop_suffix=True, fail={FIRST: {"message": "lost"}})
    with pytest.raises(TuningFailed, match="lost"):
        experiment()
    experiment()
    files = [job["training_file"] for job in server.state()["jobs"].values()]
    assert len(files) == len(set(files))


@pytest.mark.parametrize("code", ["exceeded_quota", "insufficient_balance"])
def test_an_account_without_credit_stops_though_failures_keep_the_old_model(
    server, experiment, code
):
    server.tell(fail={FIRST: {"code": code, "message": "sorry", "param": None}})
    with pytest.raises(TuningFailed, match="add credit to the account"):
        experiment('finetune.on_failure="keep"')
    experiment('finetune.on_failure="keep"')
    with Store.open(experiment.database, read_only=True) as store:
        assert store.rows("SELECT count(*) FROM jobs WHERE job_id LIKE '%-kept'") == [(0,)]
        tuned = store.rows("SELECT agent FROM models WHERE role = 'generator' ORDER BY agent")
    assert tuned == [(1,), (2,), (3,)]


def test_a_question_that_fails_in_every_batch_is_stored_with_its_reason(server, unbegun):
    overrides = ["evaluation.batch=true", "iterations=0", "evaluation.questions=8"]
    server.tell(line_errors={"3+7*6": [500] * 99})
    unbegun(*overrides)
    with Store.open(unbegun.database, read_only=True) as store:
        failed = store.rows("SELECT DISTINCT question_id, error FROM turns WHERE error IS NOT NULL")
        [(votes,)] = store.rows("SELECT count(DISTINCT question_id) FROM votes")
    assert votes == 8
    assert len({question for question, _ in failed}) == 1
    assert all("not answered in 3 batches; the last time: the server" in e for _, e in failed)


def _listing(items: list[dict[str, object]]) -> str:
    return json.dumps({"object": "list", "data": items, "has_more": False})
