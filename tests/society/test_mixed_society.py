"""Agents of one society on different base models."""

import asyncio
import json

import pytest

from society.config import load as experiments
from society.config.load import ConfigError
from society.method.experiment import load_experiment, resolve
from society.runs import folder as folders
from society.runs import runner
from store.ledger import Store


@pytest.fixture
def mixed(experiment):
    """The scripted experiment; agent 3 answers from a script of its own, in another wording."""
    script = experiment.parent / "script.jsonl"
    lines = [json.loads(line) for line in script.read_text().splitlines()]
    other = [line | {"text": f"other: {line['text']}"} for line in lines if "/a3/" in line["key"]]
    (experiment.parent / "other.jsonl").write_text("".join(json.dumps(x) + "\n" for x in other))
    kept = [x for x in lines if "/a3/" not in x["key"] or x["key"].endswith("summary")]
    script.write_text("".join(json.dumps(line) + "\n" for line in kept))
    first, second = (f"scripted:{experiment.parent / name}.jsonl" for name in ("script", "other"))
    return experiment, [f'society.models=["{first}", "{first}", "{second}"]']


def test_each_agent_speaks_and_learns_with_its_own_base(tmp_path, mixed):
    experiment, overrides = mixed
    config = experiments.load_config(str(experiment), overrides)
    folder = folders.locate_run(tmp_path / "runs", "mixed")
    with folders.start_run(folder, config) as store:
        asyncio.run(runner.run_experiment(folder, resolve(config), store, [].append))
    with Store.open(folder.database, read_only=True) as store:
        assert store.rows(
            "SELECT DISTINCT agent, starts_with(response, 'other: ') FROM turns "
            "WHERE kind = 'answer' ORDER BY ALL"
        ) == [(1, False), (2, False), (3, True)]
        assert store.rows(
            "SELECT DISTINCT starts_with(response, 'other: ') FROM turns WHERE kind = 'summary'"
        ) == [(False,)]
        assert store.rows(
            "SELECT agent, count(DISTINCT provider), bool_and(provider LIKE '%other.jsonl') "
            "FROM models WHERE agent IS NOT NULL GROUP BY agent ORDER BY agent"
        ) == [(1, 1, False), (2, 1, False), (3, 1, True)]
        bases = "SELECT count(*) FROM models WHERE artifact IS NULL"
        assert store.rows(bases) == [(2,)]


def test_one_model_for_each_agent(mixed):
    experiment, overrides = mixed
    with pytest.raises(ConfigError, match="names 3 models for 2 agents"):
        load_experiment(str(experiment), [*overrides, "society.agents=2"])


def test_settings_belong_to_a_model_of_the_experiment(mixed):
    experiment, overrides = mixed
    with pytest.raises(
        ConfigError, match="'local:x' is the address of no model of this experiment"
    ):
        load_experiment(str(experiment), [*overrides, 'providers={"local:x" = {threads = 1}}'])


def test_settings_of_one_model_do_not_reach_another(mixed):
    experiment, overrides = mixed
    config = experiments.load_config(str(experiment), overrides)
    with_settings = config.model_copy(
        update={
            "model": "local:a",
            "provider": {"threads": 1},
            "providers": {"local:b": {"threads": 2}},
        }
    )
    assert with_settings.settings_of("local:a") == {"threads": 1}
    assert with_settings.settings_of("local:b") == {"threads": 2}
    assert with_settings.settings_of("local:c") == {"threads": 1}
    assert with_settings.settings_of("openai+http://127.0.0.1:8000/v1:m") == {}
