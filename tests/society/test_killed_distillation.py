"""`society distill` is killed around its job at a vendor: there is one job, and it is paid once."""

import signal
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from evals import stored_run
from society.cli import app
from society.config.schema import Config
from society.costs import budget
from society.runs.distill import DistillChoice, plan_from_run
from store.ledger import Store
from tests.providers.job_account import BASE
from tests.providers.job_server import serving
from tests.society.whole_run import rows, start

# What the vendor charges for a million tokens that a model was trained on; chat is free.
TRAINING_USD = 8.0
CONFIG = """
model = "openai+{url}:{base}"
iterations = 0
provider = {{ poll_s = 0.1, listing_lag_s = 0.5, api_key_env = "" }}
task.name = "arithmetic"
society = {{ agents = 2, rounds = 2, others = "quoted" }}
sampling = {{ top_p = 1.0, max_tokens = 64 }}
train.questions = 16
evaluation = {{ questions = 2, decodings = ["sampled"] }}
[prices."{base}"]
input_usd = 0
output_usd = 0
tuned_input_usd = 0
tuned_output_usd = 0
training_usd = {training}
"""
JOBS = "/fine_tuning/jobs"
RUNNING = {"method": "GET", "path": f"{JOBS}/[^/]+", "nth": 3, "done": True}
KILLS = {
    "the job is not made": [{"method": "POST", "path": JOBS, "done": False}],
    "the job is made and its id not known": [{"method": "POST", "path": JOBS, "done": True}],
    "the job is under way, twice": [RUNNING, RUNNING],
}


@pytest.fixture
def place(tmp_path):
    """A server whose jobs have no end yet, and the folder of an untuned run there."""
    with serving(job_s=600.0) as server:
        experiment = tmp_path / "api.toml"
        experiment.write_text(CONFIG.format(url=server.url, base=BASE, training=TRAINING_USD))
        yield server, start(tmp_path, experiment)


def kill_distillation(server, folder, moment, *options):
    """`society distill` in a process of its own, killed at a request."""
    program = [sys.executable, "-m", "society", "distill", folder.name, *options]
    runs = folder.path.parent
    with (runs / "output.log").open("a") as log:
        process = subprocess.Popen([*program, f"--runs={runs}"], stdout=log, stderr=log)
        try:
            server.tell(kill={"pid": process.pid, "nth": 1, **moment})
            status = process.wait()
        finally:
            process.kill()
    assert status == -signal.SIGKILL, (runs / "output.log").read_text()


def distill(folder, *options):
    given = ["distill", folder.name, "--quiet", f"--runs={folder.path.parent}", *options]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 0, done.output


def count_spent(folder, choice=None):
    """What a start counts as spent, with the most that open jobs can cost."""
    with Store.open(folder.database, create=False) as store:
        config = Config.from_json(stored_run.load_run(store).config)
        if choice is not None:
            config = plan_from_run(store, choice).experiment.config
        prices = budget.load_prices(store, config)
        return budget.open_budget(store, config, prices).spent_usd


def read_training(folder):
    """Jobs, trained tokens and what they cost, by the run's own books."""
    return rows(folder, "SELECT calls, trained_tokens, usd FROM spend WHERE stage = 'finetune'")


@pytest.mark.parametrize("moments", KILLS.values(), ids=KILLS)
def test_the_next_start_has_one_job_and_pays_it_once(place, moments):
    server, folder = place
    for moment in moments:
        kill_distillation(server, folder, moment)
    turns = rows(folder, "SELECT turn_id, created_at FROM turns WHERE split = 'train' ORDER BY ALL")
    most = count_spent(folder)
    assert most > 0
    server.tell(job_s=0.1)
    # Enough for one job, not for two.
    distill(folder, f"--set=budget_usd={1.9 * most}")
    [job] = server.state()["jobs"].values()
    assert job["status"] == "succeeded"
    assert len(server.state()["files"]) == 1
    usd = job["trained_tokens"] * TRAINING_USD / 1e6
    assert usd < 1.9 * most
    assert read_training(folder) == [(1, job["trained_tokens"], pytest.approx(usd))]
    assert count_spent(folder) == pytest.approx(usd)
    again = "SELECT turn_id, created_at FROM turns WHERE split = 'train' ORDER BY ALL"
    assert rows(folder, again) == turns
    # A further start has nothing to do.
    asked = len(server.log("POST"))
    distill(folder)
    assert len(server.log("POST")) == asked
    assert count_spent(folder) == pytest.approx(usd)


def test_what_else_is_paid_meanwhile_counts_the_job_as_it_was_made(place):
    server, folder = place
    # Neither epochs nor arm are known to the run, whose own questions are under the same cap.
    changed = ["finetune.generator_epochs=9"]
    kill_distillation(server, folder, RUNNING, f"--set={changed[0]}")
    most = count_spent(folder, DistillChoice(settings=changed))
    assert most > 0
    assert count_spent(folder) == most
    told = CliRunner().invoke(app, ["cancel", folder.name, f"--runs={folder.path.parent}"])
    assert told.exit_code == 0, told.output
    [job] = server.state()["jobs"].values()
    assert job["status"] == "cancelled"
