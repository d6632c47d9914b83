"""Deployments of tuned models: told at the end of a run, deleted by `society cancel`."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from society.cli import app
from society.method.progress import Note
from tests.society.whole_run import start

PROVIDER = '''
"""A vendor whose tuned models are deployed; the deployments are in a file beside the runs."""

import json
from pathlib import Path

from providers.base import Deployment, ProviderFactory, ProviderInfo
from providers.errors import ConnectionLost
from providers.scripted import ScriptedProvider
from providers.types import Capabilities

FILE = Path("deployed.json")


class Vendor(ScriptedProvider):
    capabilities = Capabilities(finetune=True, sampling_seed=True, weights=True, deployments=True)

    def with_deadline(self, give_up_after_s):
        return self

    async def load_adapters(self, models):
        names = {*read(), *(model.artifact for model in models if model.artifact)}
        FILE.write_text(json.dumps(sorted(names)))

    async def list_deployments(self, models):
        if "down" in read():
            raise ConnectionLost("the vendor does not answer")
        known = {model.artifact for model in models}
        usd = None if "unpriced" in read() else 0.5
        return [Deployment(name, "Active", usd) for name in read() if name in known]

    async def delete_deployment(self, deployment):
        FILE.write_text(json.dumps([name for name in read() if name != deployment.artifact]))


def read():
    return json.loads(FILE.read_text()) if FILE.exists() else []


def connect(target, settings, workdir):
    return Vendor(lambda request: "It is \\\\boxed{7}", address="deployed:m")


info = ProviderInfo(free=True, weights=True, deployments=True)
FACTORY = ProviderFactory(lambda target, settings: None, connect, info)
'''
EXPERIMENT = """
model = "deployed:m"
iterations = 1
stop_if_unread = 0
task = { name = "arithmetic" }
society = { agents = 2, rounds = 2, others = "quoted" }
train = { questions = 8 }
datasets = { w = 0.0 }
evaluation = { questions = 1, decodings = ["sampled"] }
"""


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    site = tmp_path / "site"
    info = site / "deploying-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "deploying.py").write_text(PROVIDER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: deploying\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[society.providers]\ndeployed = deploying\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.toml"
    path.write_text(EXPERIMENT)
    return path


def deployed():
    return json.loads(Path("deployed.json").read_text())


def test_they_are_told_with_their_price_and_deleted_on_request(experiment, tmp_path):
    told = []
    start(tmp_path, experiment, name="small", observe=told.append)
    count = len(deployed())
    assert count > 0
    Path("deployed.json").write_text(json.dumps([*deployed(), "of-another-run"]))
    [note] = [event.text for event in told if isinstance(event, Note) and "deployed" in event.text]
    assert f"{count} tuned model(s) stay deployed, at {count / 2:.2f} USD an hour" in note
    assert "`society cancel small`" in note
    done = CliRunner().invoke(app, ["cancel", "small"])
    assert done.exit_code == 0, done.output
    assert f"{count} deployment(s) deleted" in done.output
    assert deployed() == ["of-another-run"]
    Path("deployed.json").write_text('["down"]')
    told.clear()
    start(tmp_path, experiment, name="small", observe=told.append)
    assert "cannot be listed" in " ".join(e.text for e in told if isinstance(e, Note))
    assert CliRunner().invoke(app, ["cancel", "small"]).exit_code == 1


def tell(experiment, tmp_path, *overrides):
    """What the end of a run says of its deployments."""
    told = []
    start(tmp_path, experiment, *overrides, name="small", observe=told.append)
    [note] = [event.text for event in told if isinstance(event, Note) and "deployed" in event.text]
    return note


def test_the_user_s_own_price_comes_first_and_an_unknown_one_is_called_unknown(
    experiment, tmp_path
):
    note = tell(experiment, tmp_path, 'prices."m".deployment_usd_per_hour=0.7')
    assert f"at {len(deployed()) * 0.7:.2f} USD an hour" in note
    Path("deployed.json").write_text(json.dumps([*deployed(), "unpriced"]))
    unknown = tell(experiment, tmp_path)
    assert "at an unknown price by the hour (known: 0.00 USD" in unknown
    assert "deployment_usd_per_hour under [prices]" in unknown
    assert "0.70 USD" not in unknown
