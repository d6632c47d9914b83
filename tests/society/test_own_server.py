"""What is stored of the servers that answer, and what another one means."""

import json

import pytest

from providers.embedded import MODEL_DIR
from society.config import load as experiments
from society.config.load import ConfigError
from society.runs import folder as folders
from store.ledger import Store
from tests.providers.adapter_server import FINGERPRINT, AdapterServer
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


def start_at(tmp_path, *servers, more=()):
    """Start the run "away" at servers that the user has started, and stop before its first call."""
    named = f"serving.addresses={[server.address for server in servers]}"
    config = experiments.load_config("demo", ['model="embedded:"', named, *more])
    told = []
    folders.start_run(folders.locate_run(tmp_path, "away"), config, told.append).close()
    return told


def read_servers(tmp_path):
    with Store.open(tmp_path / "away" / "run.duckdb", read_only=True) as store:
        rows = store.rows("SELECT machine::VARCHAR FROM run_starts ORDER BY started_at")
    return [json.loads(machine)["servers"] for (machine,) in rows]


def test_servers_of_the_user_are_stored_and_others_refused_unless_they_are_allowed(tmp_path):
    allowed = ["serving.allow_other_server=true"]
    with AdapterServer() as first, AdapterServer() as second:
        assert start_at(tmp_path, first, second) == []
        # One that is away is remembered, and one at another address is told by what it is.
        second.kill()
        assert start_at(tmp_path, first, second) == []
        with second, AdapterServer() as third:
            assert start_at(tmp_path, second, third) == []
            third.version, third.fingerprint = "0.33.1", "vllm-0.33.1-77aa01bc"
            said = r"version '0.32.0', now '0.33.1'; system_fingerprint .*allow_other_server"
            with pytest.raises(ConfigError, match=said):
                start_at(tmp_path, second, third)
            [text] = start_at(tmp_path, second, third, more=allowed)
            assert "version '0.32.0', now '0.33.1'" in text
            assert start_at(tmp_path, second, third) == []
    assert first.chats == second.chats == third.chats == []
    stored = read_servers(tmp_path)
    told = {"engine": "vllm", "version": "0.32.0", "model": "org/base", "context_tokens": 4096}
    told["system_fingerprint"] = FINGERPRINT
    both = {first.address: told, second.address: told}
    assert stored[:3] == [both, both, {second.address: told, third.address: told}]
    assert stored[3][third.address]["system_fingerprint"] == "vllm-0.33.1-77aa01bc"


def test_a_server_that_tells_less_is_no_other_one(tmp_path):
    with AdapterServer() as server:
        start_at(tmp_path, server)
        server.fingerprint = None
        assert start_at(tmp_path, server) == []
    assert start_at(tmp_path, server) == []


def test_an_environment_without_the_engine_ends_the_start_with_the_remedy(tmp_path):
    old = EngineEnvironment(tmp_path / "old", version="0.9.0")
    with pytest.raises(ConfigError, match=r"0\.32 or newer is needed"):
        start(tmp_path, old)
