"""A run whose vendor answers with a tuned model only once it is deployed, and what it leaves."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from providers.openai.deployments import name_deployment
from society.cli import app
from store.ledger import Store
from tests.providers.azure_account import GROUP, RESOURCE, SUBSCRIPTION, TOKEN
from tests.providers.job_server import serving

BASE = "gpt-4o-mini"


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOME_TOKEN", TOKEN)
    with serving(base=BASE, job_s=0.1, azure=True) as running:
        yield running


def write_experiment(url: str) -> Path:
    path = Path("small.toml")
    path.write_text(
        f"""
        model = "openai+{url}:{BASE}"
        iterations = 1
        task.name = "arithmetic"
        society = {{ agents = 2, others = "quoted" }}
        sampling = {{ temperature = 1.0, top_p = 1.0, max_tokens = 64 }}
        train = {{ questions = 40 }}
        datasets = {{ w = 0.0 }}
        evaluation = {{ questions = 2, decodings = ["sampled"] }}

        [provider.deployment]
        subscription = "{SUBSCRIPTION}"
        resource_group = "{GROUP}"
        account = "{RESOURCE}"
        sku = "Standard"
        token_env = "SOME_TOKEN"
        url = "{url.removesuffix("/v1")}"
        """
    )
    return path


def test_a_run_deploys_what_it_has_tuned_and_cancel_deletes_it(server):
    path = write_experiment(server.url)
    doctor = CliRunner().invoke(app, ["doctor", str(path)])
    assert doctor.exit_code == 0, doctor.output
    assert "about 1.70 USD an hour each until `society cancel RUN`" in doctor.output

    cost = CliRunner().invoke(app, ["cost", str(path)])
    assert "4 model(s) tuned from openai+http" in cost.output
    assert "at 1.70 USD an hour each, 6.80 USD together, until `society cancel" in cost.output

    done = CliRunner().invoke(app, ["run", str(path)])
    assert done.exit_code == 0, done.output
    told = " ".join(done.output.split())
    assert "4 tuned model(s) stay deployed, at 6.80 USD an hour" in told
    assert "society cancel small" in told
    with Store.open("runs/small/run.duckdb", read_only=True) as store:
        tuned = [str(model.artifact) for model in store.models() if model.artifact is not None]
    assert len(tuned) == 4
    assert set(server.state()["deployments"]) == {name_deployment(name) for name in tuned}
    put = [entry for entry in server.log("PUT") if "/deployments/" in entry["path"]]
    assert len(put) == 4
    assert TOKEN.encode() not in Path("runs/small/run.duckdb").read_bytes()

    gone = CliRunner().invoke(app, ["cancel", "small"])
    assert gone.exit_code == 0, gone.output
    assert "4 deployment(s) deleted" in gone.output
    assert server.state()["deployments"] == {}


def price(path: Path, *settings: str) -> str:
    given = ('provider.api_key_env="K"', *settings)
    arguments = ["cost", str(path), *(f"--set={setting}" for setting in given)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_hourly_price_is_the_user_s_or_the_table_s_or_unknown_and_never_nothing(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    path = write_experiment("https://me.openai.azure.com/openai/v1")
    free = price(path, 'provider.deployment.sku="DeveloperTier"')
    assert "Deployments:" not in free
    own = price(path, f'prices."{BASE}".deployment_usd_per_hour=3.5')
    assert "at 3.50 USD an hour each, 14.00 USD together" in own
    path.write_text(path.read_text().partition("[provider.deployment]")[0])
    unknown = price(path)
    assert "at an unknown price by the hour; write it as deployment_usd_per_hour" in unknown


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_ten_kills_make_no_job_file_or_deployment_twice(tmp_path):
    script = Path(__file__).parents[1] / "api_kill_and_resume.py"
    options = ["--kills=10", "--stages=deployments", f"--folder={tmp_path / 'kills'}"]
    done = subprocess.run(
        [sys.executable, script, *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "deployments: 10 kills" in done.stdout
