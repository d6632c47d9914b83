"""A run whose models are trained in this process and asked at one server or several."""

import asyncio
import threading
import time
from contextlib import ExitStack

import pytest

from providers.errors import Unsupported
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


TURNS = """SELECT iteration, split, question_id, agent, round, kind, model_id, messages, response,
    answer, finish_reason, error FROM turns ORDER BY ALL"""


def run(tmp_path, *servers: AdapterServer, iterations: int) -> folders.RunFolder:
    """Bring the run "away" in `tmp_path` to that many iterations."""
    addresses = [server.address for server in servers]
    named = f'address="{addresses[0]}"' if len(servers) == 1 else f"addresses={addresses}"
    overrides = [
        *SMALL,
        f"iterations={iterations}",
        f"serving.{named}",
        f'serving.path_map={{"{tmp_path}" = "/mnt/there"}}',
    ]
    folder = folders.locate_run(tmp_path, "away")
    config = experiments.load_config("demo", overrides)
    with folders.start_run(folder, config) as store:
        asyncio.run(runner.run_experiment(folder, resolve(config), store, [].append))
    return folder


def test_what_is_trained_here_answers_there(tmp_path):
    with AdapterServer(BASE, disk=("/mnt/there", str(tmp_path)), load_s=0.01) as server:
        folder = run(tmp_path, server, iterations=1)
        first = dict(server.loaded)
        assert sorted(first.values()) == sorted(
            f"/mnt/there/away/models/{path.name}" for path in folder.models.iterdir()
        )
        assert len(first) == 2 * AGENTS

        # A second start extends the run: it finds its adapters, and replaces them when it is time.
        run(tmp_path, server, iterations=2)
        assert len(server.loads) == len({name for name, _ in server.loads}) == 4 * AGENTS
        assert set(server.unloads) == set(first)
        assert not set(server.loaded) & set(first)
    assert server.faults == []
    # Before the first question; the second start finds adapters that the server has taken.
    assert len(server.trials) == 1
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


def test_a_server_that_refuses_such_adapters_stops_the_run_before_the_first_question(tmp_path):
    with (
        AdapterServer(BASE, disk=("/mnt/there", str(tmp_path)), most=0) as server,
        pytest.raises(Unsupported, match="at most 0 adapters can be loaded"),
    ):
        run(tmp_path, server, iterations=1)
    assert server.chats == []
    folder = folders.locate_run(tmp_path, "away")
    assert list(folder.models.iterdir()) == []
    with Store.open(folder.database, read_only=True) as store:
        assert store.rows("SELECT count(*) FROM turns") == [(0,)]


def kill_in_the_middle(server: AdapterServer, calls: int, away_s: float) -> threading.Thread:
    """Let the server die after so many calls more, and be started anew after a while."""
    until = len(server.chats) + calls

    def act() -> None:
        while len(server.chats) < until:
            time.sleep(0.001)
        server.kill()
        time.sleep(away_s)
        server.__enter__()

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


def test_a_server_that_dies_in_the_middle_changes_nothing_in_the_tables(tmp_path):
    found = []
    for name, killed in (("calm", False), ("struck", True)):
        home = tmp_path / name
        home.mkdir()
        with ExitStack() as stack:
            servers = [
                stack.enter_context(
                    AdapterServer(BASE, disk=("/mnt/there", str(home)), answer_s=0.02)
                )
                for _ in range(2)
            ]
            killing = kill_in_the_middle(servers[0], 12, away_s=0.5) if killed else None
            folder = run(home, *servers, iterations=1)
            if killing is not None:
                killing.join()
                assert servers[0].lives == 1
            assert [server.faults for server in servers] == [[], []]
        with Store.open(folder.database, read_only=True) as store:
            found.append(store.rows(TURNS))
            models = store.rows("SELECT model_id, sha256 FROM models ORDER BY ALL")
            assert len(models) == 1 + 2 * AGENTS
    calm, struck = found
    assert len(calm) == 2 * AGENTS * (QUESTIONS + 2 * 3)
    assert calm == struck


def test_whole_models_are_refused_before_anything_is_trained(tmp_path):
    with (
        AdapterServer(BASE) as server,
        pytest.raises(ConfigError, match=r"takes adapters only"),
    ):
        load_experiment(
            "demo", [*SMALL, f'serving.address="{server.address}"', 'finetune.method="full"']
        )
