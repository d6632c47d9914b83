"""A run with a server of its own: what is stored of it, and what another one means."""

import json

import pytest

from providers.embedded import MODEL_DIR
from society.config import load as experiments
from society.config.load import ConfigError
from society.runs import folder as folders
from store.ledger import Store
from tests.providers.engine_environment import EngineEnvironment


def start(tmp_path, environment, *more):
    overrides = [
        *('model="embedded:"', 'serving.engine="vllm"', f'serving.python="{environment.python}"'),
        *more,
    ]
    config = experiments.load_config("demo", overrides)
    told = []
    folders.start_run(folders.locate_run(tmp_path, "own"), config, told.append).close()
    return told


def test_another_server_is_refused_unless_it_is_allowed(tmp_path):
    first = EngineEnvironment(tmp_path / "first")
    newer = EngineEnvironment(tmp_path / "newer", version="0.33.1")
    start(tmp_path, first)
    assert start(tmp_path, first) == []
    with pytest.raises(ConfigError, match=r"version '0.32.0', now '0.33.1'.*allow_other_server"):
        start(tmp_path, newer)
    allowed = "serving.allow_other_server=true"
    [said] = start(tmp_path, newer, allowed)
    assert "version '0.32.0', now '0.33.1'" in said
    assert start(tmp_path, newer, allowed) == []
    with Store.open(tmp_path / "own" / "run.duckdb", read_only=True) as store:
        rows = store.rows("SELECT machine::VARCHAR FROM run_starts ORDER BY started_at")
    servers = [json.loads(machine)["server"] for (machine,) in rows]
    assert [each["version"] for each in servers] == ["0.32.0", "0.32.0", "0.33.1", "0.33.1"]
    assert servers[0]["dtype"] == "float32"
    assert "--generation-config vllm" in servers[0]["arguments"]
    assert str(MODEL_DIR) not in servers[0]["arguments"]
    assert first.events("start") == newer.events("start") == []


def test_an_environment_without_the_engine_ends_the_start_with_the_remedy(tmp_path):
    old = EngineEnvironment(tmp_path / "old", version="0.9.0")
    with pytest.raises(ConfigError, match=r"0\.32 or newer is needed"):
        start(tmp_path, old)
