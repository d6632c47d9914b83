"""`society prune`: models of this machine, adapters at a server, models at a vendor."""

import json

import pytest
from typer.testing import CliRunner

from society.cli import app
from society.method.progress import StageStarted
from tests.api_kill_and_resume import CONFIG
from tests.providers.adapter_server import AdapterServer
from tests.providers.job_account import BASE as BASE_MODEL
from tests.providers.job_server import serving
from tests.society.whole_run import rows, start

BASE = "org/base"
ONE_JOB = ['provider.api_key_env=""', "iterations=2", "society.agents=2"]
LOCAL = """
model = "embedded:"
iterations = 2
task.name = "arithmetic"
society = { agents = 2, rounds = 1 }
sampling = { max_tokens = 64 }
train = { questions = 4, fresh = false }
datasets = { max_examples = 2 }
evaluation = { questions = 2, decodings = ["sampled"] }
finetune = { generator_epochs = 1, lora_rank = 2 }
serving.canary = false
stop_if_unread = 0
"""


def call(folder, *arguments, status=0):
    command = ["prune", folder.name, *arguments, "--runs", str(folder.path.parent)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == status, done.output
    return done


def list_models(folder) -> set[str]:
    return {path.name for path in folder.models.iterdir()}


def find_models(folder, *iterations: int) -> set[str]:
    found = rows(folder, "SELECT iteration, artifact FROM models WHERE artifact IS NOT NULL")
    return {artifact for iteration, artifact in found if iteration in iterations}


class Reached(Exception):
    """The run has come as far as it should."""


def stop_at_third_training(event):
    if isinstance(event, StageStarted) and (event.iteration, event.stage) == (3, "finetune"):
        raise Reached


def test_models_of_this_machine_and_adapters_at_a_server(tmp_path):
    pytest.importorskip("peft")
    experiment = tmp_path / "away.toml"
    experiment.write_text(LOCAL)
    with AdapterServer(BASE) as server:
        served = f'serving.address="{server.address}"'
        folder = start(tmp_path, experiment, served, name="away")
        leftover = folder.models / f".{min(list_models(folder))}.damaged"
        leftover.mkdir()
        assert len(server.loaded) == 2

        # Without --yes nothing happens, and programs get the plan.
        plan = json.loads(call(folder, "--json").stdout)
        kinds = [item["kind"] for item in plan["items"]]
        assert [kinds.count(k) for k in ("model", "leftover", "loaded adapter")] == [2, 1, 2]
        assert plan["bytes"] > 0
        assert plan["removed"] is False
        assert len(plan["kept"]) == 2
        assert "add --yes" in call(folder, status=2).output
        assert json.loads(call(folder, "--local", "--keep", "1", "--json").stdout)["items"] == [
            item for item in plan["items"] if item["kind"] == "leftover"
        ]
        assert len(list_models(folder)) == 5

        done = json.loads(call(folder, "--yes", "--json").stdout)
        assert done["removed"] is True
        assert all(item["error"] is None for item in done["items"])
        assert server.loaded == {}
        assert list_models(folder) == find_models(folder, 2)
        assert "nothing to remove" in call(folder).output

        # What is kept is enough to extend the run; an unfinished run keeps everything.
        with pytest.raises(Reached):
            start(
                tmp_path,
                experiment,
                served,
                "iterations=3",
                name="away",
                observe=stop_at_third_training,
            )
    assert list_models(folder) == find_models(folder, 2)
    told = call(folder).output
    assert "nothing to remove" in told
    assert "has not finished" in told
    assert "could not be asked" in told
    call(folder, "--unfinished", "--local", "--all", "--yes")
    assert list_models(folder) == set()
    assert rows(folder, "SELECT count(*) FROM models WHERE artifact IS NOT NULL") == [(4,)]


def test_models_at_a_vendor_are_deleted_once(tmp_path):
    experiment = tmp_path / "none.toml"
    with serving() as server:
        experiment.write_text(CONFIG.format(url=server.url, base=BASE_MODEL))
        folder = start(tmp_path, experiment, *ONE_JOB, name="none")
        assert "--keep 7: no such society" in call(folder, "--keep", "7", status=2).output

        # The best iteration is the last here: only the first one's models can go.
        found = find_models(folder, 1)
        plan = json.loads(call(folder, "--json").stdout)
        assert {item["kind"] for item in plan["items"]} == {"vendor model"}
        assert len(plan["items"]) == len(found)
        call(folder, "--yes")
        assert set(server.state()["deleted"]) == found
        # What was deleted is remembered, and not asked for again.
        assert "nothing to remove" in call(folder).output
        assert (folder.path / "pruned.jsonl").read_text().count("vendor model") == len(found)
