"""Every cookbook page has a config that the doctor accepts, up to the key or the server."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from society.checks import doctor
from society.cli import app
from society.config import load as experiments
from society.runs import folder as folders
from tests.providers.adapter_server import AdapterServer
from tests.providers.job_server import serving

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
    assert PAGES == ["azure", "mixed", "nebius", "openai", "vllm"]
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


PRICE = (
    "{input_usd = 1.0, output_usd = 1.0, tuned_input_usd = 1.0, tuned_output_usd = 1.0, "
    "training_usd = 1.0}"
)


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
