"""docs/guides: every command runs as it stands, with small numbers and a model that is here."""

import contextlib
import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from providers.embedded import MODEL_DIR
from society.cli import app
from society.config.load import build_config
from store.ledger import Store
from tests.published_shapes import QWEN3, write_row

DOCS = Path(__file__).parents[1] / "docs"
GUIDES = {path.stem: path.read_text("utf-8") for path in sorted((DOCS / "guides").glob("*.md"))}
SMALL = (
    *("train.questions=6", "train.fresh=false", "evaluation.questions=3", "iterations=1"),
    *("sampling.max_tokens=112", "sampling.temperature=0.6", "society.others=quoted"),
    *("finetune.generator_epochs=1", "finetune.critic_epochs=1", "stop_if_unread=0"),
)
EXPERIMENT = """
model = "embedded:"
iterations = 1
task.name = "arithmetic"
train.questions = 6
sampling = {max_tokens = 112, temperature = 0.6}
society.others = "quoted"
evaluation = {questions = 3, decodings = ["sampled"]}
finetune = {learning_rate = 1e-3, generator_epochs = 1, critic_epochs = 1}
stop_if_unread = 0
"""


def list_commands(guide: str) -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", GUIDES[guide], re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert all(line.startswith("$ society ") for line in lines)
    return [line.removeprefix("$ society ") for line in lines]


def invoke(command: str, folder: Path) -> str:
    with contextlib.chdir(folder):
        done = CliRunner().invoke(app, shrink(shlex.split(command)))
    assert done.exit_code == 0, f"{command}\n{done.output}"
    return done.output


def shrink(words: list[str]) -> list[str]:
    """A command with few questions and the built-in model, for which nothing must be fetched."""
    if words[0] not in ("run", "sweep"):
        return words
    # A replay asks what the run before it was asked.
    model = () if any("replay:" in word for word in words) else ("model=embedded:",)
    own = {word.partition("=")[0] for word in words if "=" in word} - {"evaluation.questions"}
    small = [pair for pair in SMALL if pair.partition("=")[0] not in own]
    return [*words, *(part for pair in (*model, *small) for part in ("--set", pair))]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A folder with the files that the guides name."""
    folder = tmp_path_factory.mktemp("guides")
    # Sums that the built-in model knows, so that there are labels.
    sums = [f"{n % 10}+{n % 7 + 1}*{n % 6 + 2}+{n // 10}-7*8" for n in range(60)]
    rows = [{"q": f"What is the result of {each}?", "reply": eval(each)} for each in sums]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "demo.toml").write_text(EXPERIMENT)
    (folder / "my.toml").write_text(EXPERIMENT)
    [both] = re.findall(r"```toml\n(.*?)```", GUIDES["api-and-local"], re.DOTALL)
    (folder / "both.toml").write_text(both)
    return folder


@pytest.fixture(scope="module")
def ran(workplace) -> Path:
    """The same folder, with a run called `demo`."""
    pytest.importorskip("peft")
    invoke("run demo.toml", workplace)
    return workplace


@pytest.fixture(autouse=True)
def without_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def is_slow(command: str) -> bool:
    """Whether a command loads a model, or needs a run."""
    return command.split()[0] not in ("init", "doctor", "cost")


@pytest.mark.parametrize("guide", ["local-gpu", "api-and-local"])
def test_the_commands_that_need_no_model(guide, workplace):
    for command in list_commands(guide):
        if not is_slow(command):
            told = " ".join(invoke(command, workplace).split())
            assert "unknown key" not in told
            assert "has no key" not in told


@pytest.mark.long
@pytest.mark.parametrize("guide", GUIDES)
def test_every_command(guide, ran):
    for command in list_commands(guide):
        written = next((word for word in command.split() if word.endswith(".toml")), "")
        # An experiment is not written over: these tests may have done so before.
        if command.startswith("init "):
            (ran / written).unlink(missing_ok=True)
        assert invoke(command, ran) or command.startswith("export")


def test_every_guide_has_commands_and_is_short():
    assert len(GUIDES) == 6
    for guide, text in GUIDES.items():
        assert list_commands(guide), guide
        # Two screens.
        assert len(text.splitlines()) <= 90, guide


def test_the_table_of_memory_is_what_doctor_reckons(tmp_path):
    rows = [write_row(name, tmp_path / name) for name in QWEN3]
    assert "\n".join(rows) in GUIDES["local-gpu"]


def test_the_file_for_both_is_valid():
    [both] = re.findall(r"```toml\n(.*?)```", GUIDES["api-and-local"], re.DOTALL)
    config = build_config(tomllib.loads(both), "docs")
    assert config.settings_of("local:Qwen/Qwen3-4B") == {"quantization": "nf4"}
    assert config.settings_of(config.model) == {"limits": {"requests_per_minute": 500}}


@pytest.mark.long
def test_an_adapter_is_loaded_by_plain_peft(ran, capsys):
    with Store.open(ran / "runs/demo/run.duckdb", read_only=True) as store:
        model = next(m for m in store.models() if m.artifact and m.role == "generator")
    [code] = re.findall(r"```python\n(.*?)```", GUIDES["adapters"], re.DOTALL)
    code = code.replace("HuggingFaceTB/SmolLM2-135M-Instruct", str(MODEL_DIR))
    with contextlib.chdir(ran):
        folder = Path("runs/demo/models") / model.artifact
        assert (folder / "adapter_config.json").is_file()
        exec(code.replace("runs/demo/models/NAME", str(folder)), {})
    assert re.search(r"\d", capsys.readouterr().out)


def test_the_index_names_every_page_and_links_lead_to_files():
    pages = [*DOCS.glob("*.md"), *(DOCS / "guides").glob("*.md")]
    index = (DOCS / "README.md").read_text("utf-8")
    for page in pages:
        name = page.relative_to(DOCS).as_posix()
        assert name == "README.md" or f"({name})" in index, name
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            there = target.startswith(("https://", "http://")) or (page.parent / target).exists()
            assert there, f"{name}: {target}"
