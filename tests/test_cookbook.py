"""Every cookbook page has a config that the doctor accepts, up to the key or the server."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from providers import registry
from providers.embedded import MODEL_DIR
from society.checks import doctor
from society.cli import app
from society.config import load as experiments
from society.runs import folder as folders
from tests.providers.adapter_server import AdapterServer
from tests.providers.bedrock_account import BUCKET
from tests.providers.bedrock_server import KEY_ID, SECRET, serving_bedrock
from tests.providers.job_server import serving
from tests.providers.tinker_server import serving_tinker

COOKBOOK = Path(__file__).parents[1] / "docs" / "cookbook"
PAGES = sorted(path.stem for path in COOKBOOK.glob("*.md") if path.stem != "README")
KEYS = {
    "openai": "OPENAI_API_KEY",
    "azure": "AZURE_OPENAI_API_KEY",
    "nebius": "NEBIUS_API_KEY",
    "mixed": "OPENAI_API_KEY",
}


@pytest.fixture(autouse=True)
def without_keys_or_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for variable in KEYS.values():
        monkeypatch.delenv(variable, raising=False)


def errors(page: str, *overrides: str) -> list[str]:
    folder = folders.locate_run(Path("runs"), page)
    found = doctor.preflight_file(str(COOKBOOK / f"{page}.toml"), overrides, folder)
    return [finding.text for finding in found if finding.level == "error"]


def test_there_is_a_page_for_each_way_of_use():
    assert [
        *("azure", "bedrock", "gemini", "mixed", "nebius", "openai"),
        *("skyrl", "tinker", "vllm"),
    ] == PAGES
    assert sorted(path.stem for path in COOKBOOK.glob("*.toml")) == PAGES


@pytest.mark.parametrize("page", KEYS)
def test_only_the_key_is_missing(page):
    [error] = errors(page)
    assert f"the environment variable {KEYS[page]} is not set" in error


def test_only_the_server_is_missing():
    with AdapterServer("Qwen/Qwen3-0.6B") as server:
        address = f'serving.address="{server.address}"'
    [error] = errors("vllm", address)
    assert "Cannot connect" in error
    with AdapterServer("Qwen/Qwen3-0.6B") as server:
        assert errors("vllm", f'serving.address="{server.address}"') == []


@pytest.mark.parametrize("page", ["openai", "azure", "nebius"])
def test_with_a_key_nothing_is_wrong(page, monkeypatch):
    monkeypatch.setenv(KEYS[page], "a-key-for-the-stand-in")
    name = experiments.load_config(str(COOKBOOK / f"{page}.toml")).model.rsplit(":", 1)[1]
    with serving(base=name) as server:
        overrides = [f'model="openai+{server.url}:{name}"', f'prices={{"{name}" = {PRICE}}}']
        assert errors(page, *overrides) == []


def test_bedrock_wants_credentials_and_then_nothing_is_wrong(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    [error] = errors("bedrock")
    assert "AWS credentials are missing; set AWS_ACCESS_KEY_ID" in error
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with serving_bedrock() as server:
        place = f'provider.endpoint_url="{server.url}"', f'provider.bucket="{BUCKET}/here"'
        assert errors("bedrock", *place) == []
        [lacking] = errors("bedrock", *place, 'datasets.critic_loss="final"')
    assert 'set datasets.critic_loss = "all"' in lacking


def test_only_google_s_credentials_are_missing(monkeypatch):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "nowhere.json")
    [error] = errors("gemini")
    assert "gcloud auth application-default login" in error


def test_only_the_key_of_thinking_machines_is_missing(monkeypatch):
    monkeypatch.delenv("TINKER_API_KEY", raising=False)
    # The templates of models that are not on this disk would have to be fetched.
    template = f'provider.tokenizer="{MODEL_DIR}"'
    [error] = errors("tinker", template)
    assert "the environment variable TINKER_API_KEY is not set" in error


def test_what_thinking_machines_keeps_is_told_beside_the_price():
    done = CliRunner().invoke(app, ["cost", str(COOKBOOK / "tinker.toml")])
    told = " ".join(done.output.split())
    assert "12 model(s) tuned from tinker:Qwen/Qwen3-8B, and their states, are kept at 0.10" in told
    assert "unknown" not in told


def test_only_the_server_of_skyrl_is_missing(tmp_path):
    template = f'provider.tokenizer="{MODEL_DIR}"'
    [error] = errors("skyrl", template, 'model="tinker+http://127.0.0.1:9:Qwen/Qwen3-0.6B"')
    assert "cannot be reached" in error
    name = "Qwen/Qwen3-0.6B"
    with serving_tinker(tmp_path / "server", base=name) as server:
        assert errors("skyrl", template, f'model="tinker+{server.url}:{name}"') == []


PRICE = (
    "{input_usd = 1.0, output_usd = 1.0, tuned_input_usd = 1.0, tuned_output_usd = 1.0, "
    "training_usd = 1.0}"
)


def test_the_table_of_vendors_names_every_scheme_that_can_train():
    text = (COOKBOOK / "README.md").read_text(encoding="utf-8")
    table = text.partition("## Which vendor?")[2].partition("\n## ")[0]
    here = {
        scheme
        for row in re.findall(r"^\|[^|]*\|([^|]*)\|", table, re.M)
        for scheme in re.findall(r"`(\w+)\+?\w*:`", row)
    }
    assert here == set(registry.schemes()) - {"scripted", "replay"}


@pytest.mark.parametrize("page", PAGES)
def test_it_can_be_priced_without_a_key(page):
    done = CliRunner().invoke(app, ["cost", str(COOKBOOK / f"{page}.toml")])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_points_to_is_there(page):
    text = (COOKBOOK / f"{page}.md").read_text(encoding="utf-8")
    assert f"[{page}.toml]({page}.toml)" in text
    assert f"society doctor docs/cookbook/{page}.toml" in " ".join(text.split())
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (COOKBOOK / target).is_file(), target
