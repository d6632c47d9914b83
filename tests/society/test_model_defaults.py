"""[sampling] defaults = "model": what is not set is as the model's generation_config.json says."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import society
from society.checks import doctor
from society.config.load import ConfigError
from society.config.schema import Config
from society.method.arms import build_arms
from society.method.debating import build_debate_rules
from society.method.experiment import resolve
from society.runs import folder as folders
from tests.providers.conftest import save_model
from tests.society.test_packaged import hub

# As Qwen3 publishes it.
PUBLISHED = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "eos_token_id": 1}
TRANSFORMERS = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 50,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
}
QWEN = {**TRANSFORMERS, "temperature": 0.6, "top_p": 0.95, "top_k": 20}
KEYS = list(TRANSFORMERS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "qwen")


@pytest.fixture
def make_model(saved, tmp_path):
    """A function that makes a model folder with this generation_config.json, or without any."""

    def make(stated: dict | None, name: str = "model") -> Path:
        folder = shutil.copytree(saved, tmp_path / name, dirs_exist_ok=True)
        (folder / "generation_config.json").unlink(missing_ok=True)
        if stated is not None:
            (folder / "generation_config.json").write_text(json.dumps(stated))
        return folder

    return make


def make_config(model: Path | str, sampling: dict | None = None, **changes) -> Config:
    table = {
        "model": f"local:{model}" if isinstance(model, Path) else model,
        "iterations": 0,
        "stop_if_unread": 0,
        "task": {"name": "arithmetic"},
        "society": {"agents": 2, "rounds": 1},
        "train": {"questions": 2},
        "evaluation": {"questions": 2, "decodings": ["sampled"]},
        "sampling": {"defaults": "model", "max_tokens": 4, **(sampling or {})},
        "provider": {"threads": 1, "dtype": "float32", "device": "cpu"},
    }
    return Config.model_validate({**table, **changes}, strict=False)


def read(config: Config) -> dict[str, float]:
    return {key: getattr(config.sampling, key) for key in KEYS}


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        (PUBLISHED, QWEN),
        (
            {**PUBLISHED, "top_k": None, "repetition_penalty": 1.05, "min_p": 0.1},
            {**QWEN, "top_k": 50, "repetition_penalty": 1.05, "min_p": 0.1},
        ),
        ({"do_sample": False, "eos_token_id": 1}, TRANSFORMERS),
        ({}, TRANSFORMERS),
        ({"top_k": 0}, {**TRANSFORMERS, "top_k": 0}),
    ],
)
def test_what_is_not_set_is_as_generate_would_sample(make_model, stated, expected):
    config = make_config(make_model(stated))
    experiment = resolve(config)
    assert read(experiment.config) == expected == experiment.model_defaults
    # The stored text has all of it, so that it stays what it is.
    stored = json.loads(experiment.config.to_json())["sampling"]
    assert {key: stored[key] for key in KEYS} == expected
    make_model(None)
    again = resolve(Config.from_json(experiment.config.to_json()))
    assert (again.config, dict(again.model_defaults)) == (experiment.config, {})


def test_the_users_own_keys_win(make_model):
    folder = make_model({**PUBLISHED, "top_p": 7})
    sampling = {"top_p": 0.8, "min_p": 0.0, "agents": [{"temperature": 1.2}, {}]}
    experiment = resolve(make_config(folder, sampling))
    assert read(experiment.config) == {**QWEN, "top_p": 0.8}
    assert set(experiment.model_defaults) == {"temperature", "top_k", "repetition_penalty"}
    assert [each.temperature for each in experiment.config.sampling.by_agent] == [1.2, 0.6]
    greedy = resolve(make_config(folder, {"top_p": 0.8, "temperature": 0})).config
    assert (greedy.sampling.temperature, greedy.sampling.top_k) == (0.0, 0)
    society_own = make_config(folder, {"defaults": "society"})
    assert read(resolve(society_own).config) == read(society_own)
    assert "defaults" not in json.loads(society_own.to_json())["sampling"]


def test_greedy_answers_have_the_models_repetition_penalty_too(make_model):
    config = resolve(make_config(make_model({**PUBLISHED, "repetition_penalty": 1.3}))).config
    greedy = build_debate_rules(config, build_arms(config)[0], "greedy").sampling
    assert (greedy.temperature, greedy.repetition_penalty) == (0.0, 1.3)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        (None, r"has no generation_config.json; write the values .* into \[sampling\]"),
        ({"temperature": 0.0}, r"has temperature = 0, .*; set sampling.temperature"),
        (
            {"top_p": 1.5, "top_k": "20"},
            r"top_p: .*1\.5.*; set sampling\.top_p, sampling\.top_k",
        ),
        ([], "is not a JSON object"),
    ],
)
def test_a_file_that_says_nothing_usable_is_refused(make_model, stated, message):
    with pytest.raises(ConfigError, match=message):
        resolve(make_config(make_model(stated)))


def test_only_local_models_with_such_a_file_have_defaults(tmp_path):
    with pytest.raises(ConfigError, match=r"openai:m is no local model.*; write the values"):
        resolve(make_config("openai:m", provider={}))
    assert resolve(make_config("embedded:", provider={})).model_defaults == TRANSFORMERS


def test_a_gguf_file_has_no_defaults(make_model):
    gguf = pytest.importorskip("gguf")
    path = make_model(PUBLISHED) / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_chat_template("{{ messages[0].content }}")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ConfigError, match=r"model\.gguf', as a GGUF file, has no generation"):
        resolve(make_config(path))


def test_models_that_differ_need_settings_for_each_agent(make_model):
    one, other = make_model(PUBLISHED, "one"), make_model({**PUBLISHED, "top_k": 40}, "other")
    models = {"agents": 2, "rounds": 1, "models": [f"local:{one}", f"local:{other}"]}
    with pytest.raises(ConfigError, match=rf"differs in top_k: 20 for local:{one}, 40 for local:"):
        resolve(make_config(one, society=models))
    config = resolve(make_config(one, {"agents": [{}, {"top_k": 40}]}, society=models)).config
    assert [each.top_k for each in config.sampling.by_agent] == [20, 40]
    assert [each.temperature for each in config.sampling.by_agent] == [0.6, 0.6]


def test_doctor_and_start_say_what_was_taken_once(make_model, tmp_path):
    experiment = resolve(make_config(make_model(PUBLISHED), {"min_p": 0.0}))
    line = (
        "sampling, from the model's generation_config.json: temperature 0.6, top_p 0.95, top_k 20, "
        "repetition_penalty 1"
    )
    folder = folders.locate_run(tmp_path / "runs", "run")
    findings = doctor.preflight_config(experiment, folder)
    assert [found.level for found in findings if found.text == line] == ["ok"]
    stream = io.StringIO()
    doctor.require_ready(experiment, folder, stream)
    assert stream.getvalue().count(line) == 1


def test_a_run_keeps_what_it_began_with(make_model, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = make_model(PUBLISHED)
    folder = society.run(make_config(model), "run", tmp_path / "runs")
    with society.open_run("run", tmp_path / "runs") as run:
        stored = run.config
        assert len(run.store.rows("SELECT 1 FROM turns")) == 4
    assert read(stored) == QWEN
    assert "top_k = 20" in folder.config.read_text()
    society.run(make_config(model), "run", tmp_path / "runs")
    make_model({**PUBLISHED, "top_k": 40})
    with pytest.raises(ConfigError, match=r"(?s)sampling.top_k: stored 20, now 40.*has changed"):
        society.run(make_config(model), "run", tmp_path / "runs")
    # Its own config needs the file no more, and the numbers may be the user's from now on.
    folders.check_start(folder, resolve(society.load_config(folder.config)).config)
    own = {key: QWEN[key] for key in ("temperature", "top_p", "top_k")}
    folders.check_start(folder, make_config(model, {"defaults": "society", **own}))


HUB_CODE = """
import sys
from providers import registry
from providers.errors import ProviderError
for model in sys.argv[1:]:
    try:
        print(registry.read_sampling(f"local:{model}", {}))
    except ProviderError as error:
        print(error)
"""


def ask_hub(endpoint: str, home: Path, *models: str, **env: str) -> list[str]:
    """What a process of its own, which the hub's settings need, finds of these models."""
    known = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
    hub_settings = {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", HUB_CODE, *models],
        env={**known, **hub_settings, **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.splitlines()


def test_the_file_of_a_model_on_the_hub_is_fetched(tmp_path):
    with hub({"/some/qwen/generation_config.json": json.dumps(PUBLISHED).encode()}) as endpoint:
        found, missing = ask_hub(endpoint, tmp_path, "some/qwen", "some/other")
    assert found == str(QWEN)
    assert "the model 'some/other' has no generation_config.json; write" in missing
    [unreachable] = ask_hub(endpoint, tmp_path, "some/other", HF_HUB_OFFLINE="1")
    assert "cannot be fetched from the Hugging Face hub" in unreachable
    assert "connect to the network, or write the values" in unreachable
