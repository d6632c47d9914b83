"""The reference of all keys, and what an unknown key is answered with."""

import json
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evals import tasks
from providers import registry
from providers.errors import InvalidSettings
from society.cli import app
from society.config import reference
from society.config.cluster import ClusterSection
from society.config.load import ConfigError, list_packaged, load_config, read_table
from society.config.owned_keys import list_provider_keys, list_task_keys
from society.config.schema import Config, ServingSection
from society.method.experiment import load_experiment

DOC = Path(__file__).parents[2] / "docs" / "config.md"
SMALLEST = {"model": "embedded:", "task": {"name": "arithmetic"}}


def invoke(*arguments: str):
    return CliRunner().invoke(app, arguments)


def test_the_page_is_up_to_date():
    assert DOC.read_text("utf-8") == reference.write_reference(), (
        "run: society config --markdown > docs/config.md"
    )
    assert invoke("config", "--markdown").stdout == DOC.read_text("utf-8")


def test_every_key_is_described_once():
    keys = reference.list_keys()
    assert len({key.name for key in keys}) == len(keys) > 90
    # An agent's own sampling repeats the keys of all agents.
    undescribed = {key.section for key in keys if not key.description}
    assert undescribed == {"sampling.agents[]"}
    assert all(key.description.endswith(".") for key in keys if key.description)


def test_every_key_of_the_packaged_experiments_is_known():
    names = {key.name.replace("[]", "") for key in reference.list_keys()}

    def walk(table: dict[str, object], prefix: str = "") -> None:
        for key, value in table.items():
            # The task's own options, and the user's own values of an arm.
            if prefix in ("task.", "zero_shot.") and f"{prefix}{key}" not in names:
                continue
            assert f"{prefix}{key}" in names or isinstance(value, dict | list), f"{prefix}{key}"
            inner = value if isinstance(value, list) else [value]
            for each in inner:
                if isinstance(each, dict) and not prefix.startswith(("arms.", "provider")):
                    walk(each, f"{prefix}{key}.")

    for name in list_packaged():
        table, _ = read_table(name)
        table.pop("sweep", None)
        walk({k: v for k, v in table.items() if k not in ("provider", "prices")})


def test_the_defaults_are_those_that_a_run_gets():
    found = Config.model_validate(SMALLEST).model_dump(mode="json")
    # The text leaves out younger keys, so ask the sections themselves.
    serving = ServingSection.model_construct()
    cluster = ClusterSection.model_construct(ray="auto")
    config = Config.model_validate(SMALLEST).model_copy(
        update={"serving": serving, "cluster": cluster}
    )
    compared = 0
    for key in reference.list_keys():
        if key.section.endswith("[]") or key.default in ("", "required"):
            continue
        value = config
        for part in key.name.split("."):
            value = getattr(value, part)
        assert json.loads(key.default) == json.loads(json.dumps(value)), key.name
        compared += 1
    assert compared > 60
    assert found["society"]["agents"] == 3


@pytest.mark.parametrize(
    ("name", "default"), [("datasets.w", ""), ("model", "required"), ("finetune.beta", "0.1")]
)
def test_a_key_without_a_default_says_so(name, default):
    [key] = [key for key in reference.list_keys() if key.name == name]
    assert key.default == default


def test_defaults_are_written_as_toml_reads_them():
    for key in reference.list_keys():
        if key.default not in ("", "required"):
            assert tomllib.loads(f"value = {key.default}")["value"] == json.loads(key.default)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("society.roundz=3", "society.roundz: unknown key; did you mean society.rounds?"),
        ("agents=3", "agents: unknown key; did you mean society.agents?"),
        ("socety.agents=3", "socety: unknown key; did you mean [society]?"),
        ("lora_rnk=3", "lora_rnk: unknown key; did you mean finetune.lora_rank?"),
        ("budget_eur=3", "budget_eur: unknown key; did you mean budget_usd?"),
        ("prices.m.inputusd=3", "did you mean prices.MODEL.input_usd?"),
        ("sampling.agents=[{top_pp=1}]", "did you mean sampling.agents[].top_p?"),
        ("provder.device='cpu'", "provder: unknown key; did you mean provider?"),
        ("max_concurrent=8", "did you mean provider.limits.max_concurrent?"),
        ("finetune.zzz=1", "finetune.zzz: unknown key; remove it or correct its spelling"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(override, said):
    with pytest.raises(ConfigError) as caught:
        load_config("demo", [override])
    assert said in str(caught.value)
    assert "has 1 problem(s)" in str(caught.value)


def test_a_wrong_arm_is_one_problem():
    for arms, said in (
        ('[{name="a", like="multiagent", roundz=3}]', "did you mean arms[].rounds?"),
        ('[{name="a", like="multiagent", rounds="x"}]', "rounds"),
        ("[3]", "arms.0"),
        ("[]", "arms = [] leaves nothing to run"),
    ):
        with pytest.raises(ConfigError, match="has 1 problem") as caught:
            load_config("demo", [f"arms={arms}"])
        assert said in str(caught.value)


def test_the_command_explains_a_key_a_section_and_all():
    one = invoke("config", "finetune.lora_rank")
    assert one.stdout.startswith("finetune.lora_rank = 16   (whole number ≥ 1)\n    Rank of the")
    section = invoke("config", "leakage")
    assert section.stdout.splitlines()[0] == "leakage.threshold = 0.95   (number > 0 ≤ 1)"
    assert {"arms = ", "arms[].like = "} <= {
        f"{line.split(' = ')[0]} = " for line in invoke("config", "arms").stdout.splitlines()
    }
    every = invoke("config").stdout
    assert sum(" = " in line and line[0] != " " for line in every.splitlines()) == len(
        reference.list_described()
    )
    unknown = invoke("config", "lora_rnk")
    assert unknown.exit_code == 2
    assert "did you mean finetune.lora_rank?" in unknown.stderr


def test_editors_get_a_schema():
    schema = json.loads(invoke("config", "--schema").stdout)
    assert schema["required"] == ["model", "task"]
    assert schema["properties"]["seeds"]["type"] == "array"
    [path, _] = schema["$defs"]["DatasetsSection"]["properties"]["generation"]["anyOf"]
    assert schema["$defs"][path["$ref"].rpartition("/")[2]] == {"type": "string", "format": "path"}


def test_the_version_is_shown():
    assert invoke("--version").stdout == "society 0.1.0\n"


def test_a_providers_keys_are_explained_with_their_schemes():
    device = invoke("config", "provider.device").stdout
    assert device.startswith('provider.device = "auto"   (text; local:, embedded:)\n    Where the')
    limits = invoke("config", "provider.limits").stdout
    assert "provider.limits.max_concurrent = 64   (whole number ≥ 1 ≤ 512; bedrock:)" in limits
    for name in ("gemini", "gemini:"):
        of_one = invoke("config", name).stdout
        assert "provider.thinking_budget = …   (unset; whole number ≥ -1; gemini:)" in of_one
        assert "provider.timeout_s = 600.0   (number > 0; openai:, gemini:)" in of_one
        assert "provider.dtype" not in of_one
    unknown = invoke("config", "provider.devise")
    assert "did you mean provider.device?" in unknown.stderr


def test_every_key_that_a_provider_takes_is_described():
    for scheme in registry.built_in_schemes():
        model = registry.read_settings_model(scheme)
        names = {
            key.name for key in list_provider_keys(built_in=True) if f"{scheme}:" in key.owners
        }
        assert {name.split(".")[1] for name in names} == set(model.model_fields if model else ())
        # Only a script has nothing that could be set.
        assert bool(names) == (scheme != "scripted")


def test_a_providers_defaults_are_those_that_a_run_gets():
    compared = 0
    for key in list_provider_keys(built_in=True):
        names = key.name.split(".")[1:]
        # The keys of a table that is not there by default have defaults of their own.
        if key.default in ("", "required") or names[0] == "deployment":
            continue
        value = registry.read_settings_model(key.owners[0].removesuffix(":"))()
        for name in names:
            value = getattr(value, name)
        assert str(json.loads(key.default)) == str(value), key
        compared += 1
    assert compared > 40


def test_every_option_of_every_task_is_described():
    for name in tasks.list_built_in():
        model = tasks.read_options_model(name)
        keys = {key.name: key for key in list_task_keys() if name in key.owners}
        assert set(keys) == {f"task.{field}" for field in model.model_fields}
        for field, info in model.model_fields.items():
            default = keys[f"task.{field}"].default
            expected = {True: "required", False: info.default}[info.is_required()]
            if expected in ("required", None):
                assert default == (expected or "")
            else:
                assert json.loads(default) == expected


def test_a_tasks_options_are_explained_with_the_tasks_that_have_them():
    levels = invoke("config", "task.levels").stdout
    assert levels.startswith("task.levels = …   (unset; list of whole number ≥ 1 ≤ 5; math)\n")
    of_one = invoke("config", "gsm8k").stdout
    assert "task.path = …   (unset; text; gsm8k, math, mmlu, file)" in of_one
    assert "task.subjects" not in of_one
    assert "task.name" in invoke("config", "task").stdout
    assert "task.tolerance" in invoke("config", "task").stdout
    assert "did you mean task.shuffle_choices?" in invoke("config", "task.shufle_choices").stderr


def test_the_key_of_another_package_is_explained(tmp_path, monkeypatch):
    (tmp_path / "echoing.py").write_text(
        "from pydantic import BaseModel, ConfigDict\n"
        "from providers.base import ProviderFactory\n"
        "class EchoSettings(BaseModel):\n"
        "    model_config = ConfigDict(use_attribute_docstrings=True)\n"
        "    loudness: int = 3\n"
        "    'How loud it is.'\n"
        "FACTORY = ProviderFactory(None, None, settings=EchoSettings)\n"
    )
    info = tmp_path / "echoing-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: echoing\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[society.providers]\necho = echoing\nbad = absent\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    list_provider_keys.cache_clear()
    reference.list_described.cache_clear()
    try:
        assert invoke("config", "echo").stdout == (
            "provider.loudness = 3   (whole number; echo:)\n    How loud it is.\n"
        )
        # The page is about this package, whatever else is installed.
        assert DOC.read_text("utf-8") == reference.write_reference()
    finally:
        list_provider_keys.cache_clear()
        reference.list_described.cache_clear()


@pytest.mark.parametrize(
    ("address", "settings", "meant"),
    [
        ("embedded:", {"devise": "cpu"}, "device"),
        ("openai:gpt-4.1", {"timeout": 3}, "timeout_s"),
        ("openai:gpt-4.1", {"limits": {"max_concurent": 3}}, "max_concurrent"),
        ("gemini:gemini-3.5-flash", {"thinking_buget": 0}, "thinking_budget"),
        ("bedrock:amazon.nova-micro-v1:0", {"regoin": "eu-west-1"}, "region"),
        ("bedrock:amazon.nova-micro-v1:0", {"limits": {"max_concurent": 3}}, "max_concurrent"),
        ("tinker:Qwen/Qwen3-8B", {"save_evry": 3}, "save_every"),
    ],
)
def test_a_typo_in_a_providers_settings_is_answered_with_the_nearest_key(address, settings, meant):
    with pytest.raises(InvalidSettings, match=f"did you mean '{meant}'"):
        registry.check(address, settings)


def test_a_typo_in_a_tasks_options_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"task\.train_pth: unknown .* did you mean 'train_path'"):
        load_experiment("demo", ["task.name=gsm8k", "task.train_pth=x", "task.operands=[]"])
