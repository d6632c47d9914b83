"""What is refused before anything is loaded."""

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from providers import registry
from providers.errors import InvalidSettings, ModelNotFound
from providers.local.factory import check
from providers.local.preflight import preflight_files
from providers.local.settings import LocalSettings
from providers.local.source import locate_model
from providers.types import Hyperparameters, Need


def folder_with(folder, **files):
    """A model folder of the named JSON or text files; `__` stands for the dot in a name."""
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name.replace("__", ".")).write_text(text)
    return str(folder)


def test_a_whole_model_folder_passes(llama):
    check(str(llama), {})


def test_checking_loads_no_torch(llama):
    code = (
        "import sys; from providers import registry; "
        f"registry.check('local:{llama}', {{'device': 'cpu'}}); "
        "print([m for m in ('torch', 'transformers', 'peft') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "target", ["./missing", "/no/such/folder", "~/none", "a/b/c", "", "model.gguf", "..", "x\\y"]
)
def test_a_missing_path_is_not_asked_of_the_hub(target, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFound, match=r"no model folder|no config\.json"):
        check(target, {})


def test_a_missing_sibling_of_a_folder_is_a_path(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFound, match="models/missing"):
        check("models/missing", {})


@pytest.mark.parametrize("name", ["HuggingFaceTB/SmolLM2-135M-Instruct", "gpt2"])
def test_hub_names_pass_unasked(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = locate_model(name, LocalSettings(revision="main"))
    assert (source.name, source.local, source.revision) == (name, False, "main")


def test_a_folder_without_config(tmp_path):
    with pytest.raises(ModelNotFound, match=r"config\.json"):
        check(str(tmp_path), {})


def test_a_folder_without_config_but_with_a_gguf_file_names_the_setting(tmp_path):
    with pytest.raises(ModelNotFound, match=r"gguf_file = 'weights\.gguf'"):
        check(folder_with(tmp_path, weights__gguf=""), {})


def test_a_folder_without_tokenizer(tmp_path):
    with pytest.raises(ModelNotFound, match="tokenizer"):
        check(folder_with(tmp_path, config__json={}), {})


def test_a_folder_without_chat_template(tmp_path):
    files = {"config__json": {}, "tokenizer__json": {}, "tokenizer_config__json": {}}
    with pytest.raises(InvalidSettings, match="chat template"):
        check(folder_with(tmp_path, **files), {})


def test_a_template_may_be_in_either_file(tmp_path):
    files = {"config__json": {}, "tokenizer__json": {}}
    files["tokenizer_config__json"] = {"chat_template": "{{ messages }}"}
    check(folder_with(tmp_path, **files), {})
    files["tokenizer_config__json"] = {}
    check(folder_with(tmp_path, **files, chat_template__jinja="{{ messages }}"), {})


def test_a_file_that_is_no_gguf_file(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(b"x")
    with pytest.raises(ModelNotFound, match=r"not a \.gguf"):
        check(str(path), {})


def test_a_broken_gguf_file(tmp_path):
    pytest.importorskip("gguf")
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUX" + bytes(64))
    with pytest.raises(ModelNotFound, match="not a readable GGUF"):
        check(str(path), {})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"devise": "cpu"}, ["'devise'", "device"]),
        ({"device": "tpu"}, ["device", "'tpu'"]),
        ({"dtype": "int8"}, ["dtype", "'int8'", "bfloat16"]),
        ({"max_batch_size": 0}, ["max_batch_size", "0"]),
        ({"threads": "many"}, ["threads", "'many'"]),
    ],
)
def test_settings_name_key_value_and_remedy(settings, words):
    with pytest.raises(InvalidSettings) as caught:
        check("some/model", settings)
    assert all(word in str(caught.value) for word in words)


def test_the_registry_reaches_the_factory(llama, tmp_path):
    with pytest.raises(InvalidSettings):
        registry.check(f"local:{llama}", {"nonsense": 1})
    provider = registry.connect(f"local:{llama}", {}, tmp_path)
    assert provider.base.address == f"local:{llama}"
    assert provider.base.artifact is None


def test_the_built_in_model_stands_alone():
    with pytest.raises(InvalidSettings, match="embedded"):
        registry.check("embedded:other", {})
    registry.check("embedded:", {})


@pytest.mark.parametrize(
    ("settings", "day"), [({}, "2026-01-01"), ({"template_date": "2024-07-26"}, "2024-07-26")]
)
def test_the_preflight_says_which_day_a_template_writes(llama, tmp_path, settings, day):
    folder = tmp_path / "model"
    shutil.copytree(llama, folder)
    need = Need(finetune=False, ends_at=datetime.now(UTC))
    plain = preflight_files(str(folder), settings, need, Hyperparameters())
    assert not any("date" in found.text for found in plain.findings)
    (folder / "chat_template.jinja").write_text("{{ strftime_now('%d') }}{{ messages }}")
    told = preflight_files(str(folder), settings, need, Hyperparameters())
    assert any(f"always {day}" in found.text for found in told.findings)
