import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from providers.types import FinetuneSpec, Hyperparameters, ModelRef
from society.config import load
from society.config.load import ConfigError
from society.config.schema import Config
from society.method.experiment import load_experiment, resolve
from society.runs.folder import keep_stored_rules
from store.records import Run

SMALL = """
model = "scripted:{script}"
task.name = "arithmetic"
train.questions = 10
evaluation.questions = 10
"""


@pytest.fixture
def small(tmp_path: Path) -> str:
    (tmp_path / "script.jsonl").write_text("")
    path = tmp_path / "small.toml"
    path.write_text(SMALL.format(script=tmp_path / "script.jsonl"))
    return str(path)


def refused(source: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_experiment(source, overrides)
    return str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("agents=3", "agents: unknown key"),
        ("society.agent=3", "society.agent: unknown key"),
        (
            "society.agents=0",
            "society.agents: Input should be greater than or equal to 1, got 0",
        ),
        ("society.rounds=0", "society.rounds: Input should be greater than or equal to 1, got 0"),
        (
            "society.agents=three",
            "society.agents: Input should be a valid integer, got 'three'",
        ),
        (
            "society.agents=2.5",
            "society.agents: Input should be a valid integer, got 2.5",
        ),
        (
            "society.agents=1",
            "society.agents = 1 cannot debate, which takes two; set society.rounds = 1",
        ),
        ("society.others=shouted", "society.others: .*got 'shouted'"),
        ("datasets.w=1.5", "datasets.w: .*less than or equal to 1, got 1.5"),
        ("datasets.margin=[0.8,0.6]", "margin = \\[0.8, 0.6\\] is empty"),
        ("datasets.margin=[0.8]", "datasets.margin"),
        ("datasets.replay=-1", "datasets.replay"),
        ("datasets.replay_share=0.5", "replay = 0 learns from none"),
        ("datasets.novelty=0", "datasets.novelty: .*greater than 0, got 0"),
        ("finetune.critic_init=fresh", "finetune.critic_init"),
        ("datasets.w=-0.1", "datasets.w: .*greater than or equal to 0, got -0.1"),
        ("datasets.w=nan", "datasets.w: .*got nan"),
        ("iterations=-1", "iterations: .*got -1"),
        ("evaluation.decodings=[]", "evaluation.decodings: "),
        ("model=embeded:", "unknown scheme 'embeded'"),
        ("model=scripted:none.jsonl", "no script file 'none.jsonl'"),
        ("model=local:/no/such/folder", "/no/such/folder"),
        ("task.name=sums", "unknown task 'sums'; known tasks: arithmetic"),
        ("task.low=20", "high = 10 is below low = 20"),
        ("task.hihg=20", "task.hihg: unknown option of the task arithmetic"),
        ("evaluation.questions=90000", "has 83187 eval questions over 1..10, 90000 are asked for"),
        ("train.questions=90000", "has 83188 train questions over 1..10, 90000 are asked for"),
        ("agents", "'agents' is not of the form key=value"),
        ("=3", "'=3' is not of the form key=value"),
        ("model.name=x", "'model' is a value, not a section"),
    ],
)
def test_wrong_settings_are_named(small: str, override: str, message: str) -> None:
    assert re.search(message, refused(small, override))


def test_fresh_questions_must_last_for_all_iterations(small: str) -> None:
    settings = ("train.fresh=true", "train.questions=30000", "iterations=3")
    assert "90000 are asked for" in refused(small, *settings)
    load_experiment(small, ("train.fresh=false", *settings[1:]))


def test_every_problem_is_told_at_once(small: str) -> None:
    message = refused(small, "society.agents=0", "datasets.w=2", "nonsense=1")
    assert "3 problem(s)" in message
    assert message.count("\n") == 3


def test_broken_toml_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("model = \n")
    assert "not valid TOML: Invalid value (at line 1" in refused(str(path))


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bytes.toml"
    path.write_bytes(b"\xff\xfe\x00")
    assert "is UTF-16 or UTF-32 text; save the file as UTF-8" in refused(str(path))


def test_a_missing_file_lists_the_packaged_experiments() -> None:
    assert "no experiment file 'nowhere.toml'" in refused("nowhere.toml")
    assert "demo" in refused("nowhere.toml")


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "empty.toml"
    path.write_text("")
    message = refused(str(path))
    assert "model: missing" in message
    assert "task: missing" in message


def test_overrides_are_toml_values_or_words(small: str) -> None:
    loaded = load.load_config(
        small,
        ("society.agents=5", "society.others=quoted", "evaluation.decodings=['greedy']"),
    )
    assert loaded.society.agents == 5
    assert loaded.society.others == "quoted"
    assert loaded.evaluation.decodings == ("greedy",)


def test_a_stored_config_is_the_same_config(small: str) -> None:
    loaded = load.load_config(small, ("datasets.w=1", "finetune.learning_rate=1"))
    assert Config.from_json(loaded.to_json()) == loaded
    assert Config.from_json(loaded.to_json()).to_json() == loaded.to_json()


def test_differences_name_key_and_both_values(small: str) -> None:
    one = load.load_config(small).to_json()
    other = load.load_config(small, ("datasets.w=0.25", "task.high=12")).to_json()
    assert load.describe_differences(one, other) == [
        "datasets.w: stored None, now 0.25",
        "task.high: stored '(absent)', now 12",
    ]


def test_a_config_is_only_data_and_its_experiment_is_checked(small: str, tmp_path: Path) -> None:
    missing = ["task.name=file", "task.answer=number", f"task.path={tmp_path / 'none.jsonl'}"]
    config = load.load_config(small, [*missing, "model=local:/no/such/folder"])
    assert Config.from_json(config.to_json()) == config
    with pytest.raises(ConfigError, match=r"mine has 1 problem\(s\):\n  .*none\.jsonl"):
        resolve(config, "mine")
    assert resolve(load.load_config(small)).config == load.load_config(small)


def test_a_selection_that_cannot_be_read_is_one_problem_among_others(small: str) -> None:
    message = refused(small, "datasets.critic=none.sql", "society.agents=0")
    assert "2 problem(s)" in message
    assert "datasets.critic: cannot read 'none.sql'" in message


_FIRST_KEYS = {
    "": "arms budget_usd consensus datasets diversity evaluation finetune iterations leakage model "
    "prices provider providers sampling seed serving society stop_if_unread task train zero_shot",
    "consensus": "quorum ties",
    "datasets": "critic critics critic_loss generation max_examples w",
    "diversity": "decodings device encoder measures questions",
    "evaluation": "batch decodings questions",
    "finetune": "batch_size critic_epochs generator_epochs init learning_rate "
    "learning_rate_multiplier lora_alpha lora_dropout lora_rank max_grad_norm method on_failure "
    "schedule validation_share warmup weight_decay",
    "leakage": "threshold",
    "sampling": "max_tokens summary_max_tokens temperature top_p",
    "society": "agents models others rounds",
    "task": "name",
    "train": "fresh questions",
}


def test_a_key_that_came_later_is_not_in_the_text_of_a_config_without_it() -> None:
    """Runs stored before a key existed compare as equal; a new key belongs into `added`."""
    config = Config.model_validate({"model": "embedded:", "task": {"name": "arithmetic"}})
    text = json.loads(config.to_json())
    for section, keys in _FIRST_KEYS.items():
        assert set(text[section] if section else text) == set(keys.split())


def test_a_key_that_came_later_is_stored_once_it_is_set() -> None:
    task = {"name": "arithmetic", "curriculum": [{"terms": 3}]}
    config = Config.model_validate({"model": "embedded:", "task": task})
    assert json.loads(config.to_json())["task"] == task
    assert Config.from_json(config.to_json()) == config


def test_a_role_may_have_a_learning_rate_of_its_own() -> None:
    finetune = {"learning_rate": 1e-4, "critic_learning_rate": 3e-4, "target_modules": ["q_proj"]}
    config = Config.model_validate(
        {"model": "embedded:", "task": {"name": "arithmetic"}, "finetune": finetune}
    )
    generator, critic = map(config.finetune.hyperparameters, ("generator", "critic"))
    assert (generator.learning_rate, critic.learning_rate) == (1e-4, 3e-4)
    assert generator.target_modules == ("q_proj",)
    assert Config.from_json(config.to_json()) == config


def test_a_job_with_the_defaults_of_younger_settings_keeps_its_digest() -> None:
    """Paid jobs are known by it; the value is that of version 0.1.0 before there were any."""
    start = ModelRef("embedded:", "embedded:")
    spec = FinetuneSpec("run-a1", start, (), "0" * 64, Hyperparameters())
    assert spec.digest.startswith("9d11cbbb48580924")
    other = replace(spec, hyperparameters=Hyperparameters(use_dora=True))
    assert other.digest != spec.digest
    stored = Hyperparameters(target_modules=("q_proj", "v_proj"), use_rslora=True)
    assert Hyperparameters.from_facts(json.loads(json.dumps(stored.facts))) == stored


def test_a_run_keeps_the_rules_it_began_with() -> None:
    """Its stored text names none of them if it was stored before there was a choice."""
    task = {"name": "arithmetic"}
    given = Config.model_validate({"model": "embedded:", "task": task})
    text = json.loads(given.to_json())
    del text["consensus"]["quorum"], text["datasets"]["critics"]
    text["datasets"]["w"] = 0.5
    stored = Run("demo", json.dumps(text), "", 0, "{}")
    before = Config.from_json(stored.config)
    assert before.consensus.quorum == 1
    assert (before.datasets.critics, before.datasets.w) == ("sample", 0.5)
    assert keep_stored_rules(given, stored) == before
    other = Config.model_validate(
        {"model": "embedded:", "task": task, "datasets": {"critics": "all", "w": 0.3}}
    )
    assert keep_stored_rules(other, stored).datasets == other.datasets
    new = Run("demo", given.to_json(), "", 0, "{}")
    assert keep_stored_rules(given, new) == given
