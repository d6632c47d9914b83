"""A run whose models are trained in this process and asked at a server."""

import asyncio

import pytest

from society.config import load as experiments
from society.config.load import ConfigError
from society.method.experiment import load_experiment, resolve
from society.runs import folder as folders
from society.runs import runner
from store.ledger import Store
from tests.providers.adapter_server import AdapterServer

BASE = "org/base"
AGENTS, QUESTIONS = 2, 6
SMALL = [
    'model="embedded:"',
    f"society.agents={AGENTS}",
    f"train.questions={QUESTIONS}",
    "train.fresh=false",
    "evaluation.questions=3",
    'evaluation.decodings=["sampled"]',
    "finetune.generator_epochs=1",
    "finetune.critic_epochs=1",
    "finetune.lora_rank=2",
    "datasets.max_examples=4",
]


def run(tmp_path, server: AdapterServer, iterations: int) -> folders.RunFolder:
    """Bring the run "away" in `tmp_path` to that many iterations."""
    overrides = [
        *SMALL,
        f"iterations={iterations}",
        f'serving.address="{server.address}"',
        f'serving.path_map={{"{tmp_path}" = "/mnt/there"}}',
    ]
    folder = folders.locate_run(tmp_path, "away")
    config = experiments.load_config("demo", overrides)
    with folders.start_run(folder, config) as store:
        asyncio.run(runner.run_experiment(folder, resolve(config), store, [].append))
    return folder


def test_what_is_trained_here_answers_there(tmp_path):
    with AdapterServer(BASE, disk=("/mnt/there", str(tmp_path)), load_s=0.01) as server:
        folder = run(tmp_path, server, 1)
        first = dict(server.loaded)
        assert sorted(first.values()) == sorted(
            f"/mnt/there/away/models/{path.name}" for path in folder.models.iterdir()
        )
        assert len(first) == 2 * AGENTS

        # A second start extends the run: it finds its adapters, and replaces them when it is time.
        run(tmp_path, server, 2)
        assert len(server.loads) == len({name for name, _ in server.loads}) == 4 * AGENTS
        assert set(server.unloads) == set(first)
        assert not set(server.loaded) & set(first)
    assert server.faults == []
    with Store.open(folder.database, read_only=True) as store:
        said = store.rows(
            "SELECT count(*) FROM turns WHERE error IS NOT NULL OR finish_reason <> 'stop'"
        )
        assert said == [(0,)]
        tuned = store.rows("SELECT model_id, artifact FROM models WHERE iteration IS NOT NULL")
        assert len(tuned) == 4 * AGENTS
        assert all((folder.models / artifact).is_dir() for _, artifact in tuned)
        asked = store.rows("SELECT model_id, count(*) FROM turns GROUP BY model_id")
    for model_id, count in asked:
        there = [name for name in server.chats if name.startswith(f"{model_id}-")]
        if model_id == "embedded:":
            there = [name for name in server.chats if name == BASE]
        assert len(there) == count, model_id


def test_whole_models_are_refused_before_anything_is_trained(tmp_path):
    with (
        AdapterServer(BASE) as server,
        pytest.raises(ConfigError, match=r"takes adapters only"),
    ):
        load_experiment(
            "demo", [*SMALL, f'serving.address="{server.address}"', 'finetune.method="full"']
        )
