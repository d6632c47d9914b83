"""Which settings may change between two starts of one run."""

import json
from dataclasses import replace

import pytest

from society import config as experiments
from society import runs
from society.config import ConfigError

REMOTE = """
model = "openai+http://127.0.0.1:1/v1:m"
[task]
name = "arithmetic"
"""


@pytest.fixture
def resumed(tmp_path, monkeypatch):
    """A function that starts a run, and starts it again with other settings."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "remote.toml"
    path.write_text(REMOTE)

    def start(*overrides: str) -> None:
        folder = runs.folder(tmp_path / "runs", "run")
        runs.start(folder, experiments.load(str(path))).close()
        runs.start(folder, experiments.load(str(path), overrides)).close()

    return start


@pytest.mark.parametrize(
    "override",
    [
        "provider.limits.requests_per_minute=60",
        "provider.max_attempts=3",
        'provider.api_key_env="ANOTHER_KEY"',
        'finetune.on_failure="keep"',
        "iterations=4",
        'prices.m={input_usd=1, output_usd=1}',
    ],
)  # fmt: skip
def test_patience_money_and_keys_may_change(resumed, override):
    resumed(override)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("provider.temperature=false", "temperature"),
        ("sampling.temperature=0.5", "sampling.temperature"),
        ("finetune.learning_rate_multiplier=2.0", "learning_rate_multiplier"),
        ("society.agents=4", "society.agents"),
    ],
)
def test_what_decides_the_answers_may_not(resumed, override, named):
    with pytest.raises(ConfigError, match=named):
        resumed(override)


def test_a_run_keeps_the_quorum_it_was_started_with(resumed):
    with pytest.raises(ConfigError, match=r"consensus\.quorum: stored None, now 3"):
        resumed("consensus.quorum=3")


@pytest.mark.parametrize("quorum", [None, 2])
def test_a_run_from_before_there_was_a_quorum_goes_on_without_one(tmp_path, quorum):
    path = tmp_path / "remote.toml"
    path.write_text(REMOTE)
    folder = runs.folder(tmp_path / "runs", "run")
    given = [] if quorum is None else [f"consensus.quorum={quorum}"]
    with runs.start(folder, experiments.load(str(path))) as store:
        first = store.run()
        config = json.loads(first.config)
        del config["consensus"]["quorum"]
        store.write(replace(first, config=json.dumps(config)))
    if quorum is not None:
        with pytest.raises(ConfigError, match=r"consensus\.quorum: stored 1, now 2"):
            runs.start(folder, experiments.load(str(path), given))
        return
    for _ in range(2):
        with runs.start(folder, experiments.load(str(path))) as store:
            assert json.loads(store.run().config)["consensus"]["quorum"] == 1
    assert "quorum = 1" in folder.config.read_text()


def test_a_served_model_may_move_to_another_server(resumed, tmp_path):
    path = tmp_path / "remote.toml"
    path.write_text(
        'model = "embedded:"\ntask.name = "arithmetic"\n'
        'serving.address = "openai+http://127.0.0.1:1/v1:m"\n'
    )
    resumed('serving.address="openai+http://127.0.0.1:2/v1:m"')
    with pytest.raises(ConfigError, match="threads"):
        resumed("provider.threads=2")
