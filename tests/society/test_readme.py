"""Every command of the README, run as it stands, with the demo made small."""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from society import cli
from society.config import load as experiments

ROOT = Path(__file__).parents[2]
SMALL = (
    "iterations=1",
    "finetune.generator_epochs=1",
    "finetune.critic_epochs=1",
    "train.questions=6",
    "evaluation.questions=3",
)


def commands() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert all(line.startswith("$ ") for line in lines)
    return [line.removeprefix("$ ") for line in lines]


def society(command: str, folder: Path, *more: str) -> str:
    """What a command prints. It runs in this process, which imports torch only once for all."""
    program, *arguments = shlex.split(command)
    assert program == ".venv/bin/society"
    with contextlib.chdir(folder):
        done = CliRunner().invoke(cli.app, [*arguments, *more])
    assert done.exit_code == 0, f"{command}\n{done.output}"
    return done.output


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A folder in which the demo has run, as `make demo` runs it, only smaller."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("readme")
    recipe = subprocess.run(
        ["make", "--dry-run", "--silent", "demo"],
        # Not the flags of a make that runs the tests, which may print more than the recipe.
        env={name: value for name, value in os.environ.items() if "MAKE" not in name},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    demo = recipe.stdout.splitlines()[-1]
    society(demo, folder, *(f"--set={pair}" for pair in SMALL))
    return folder


def test_make_demo_ends_with_a_table_and_a_report(workplace):
    assert (workplace / "runs/demo/report.html").stat().st_size > 10_000


@pytest.mark.parametrize("command", [c for c in commands() if " demo" in c and "make" not in c])
def test_a_command_on_the_demo(workplace, command):
    assert society(command, workplace)


def test_your_own_questions_and_model(workplace):
    from providers.embedded import MODEL_DIR

    rows = [f'{{"q": "{n}+4*5+6-7*8", "reply": {n + 4 * 5 + 6 - 7 * 8}}}\n' for n in range(40)]
    (workplace / "questions.jsonl").write_text("".join(rows))
    own = [c for c in commands() if "my-experiment" in c]
    assert [c.split()[1] for c in own] == ["init", "cost", "run"]
    for command in own:
        small = [f"--set={pair}" for pair in SMALL] if " run " in command else []
        small += ["--set=iterations=0", "--set=stop=never", "--set=sampling.max_tokens=32"] * bool(
            small
        )
        hub_name = re.sub(r"--model \S+", f"--model {MODEL_DIR}", command)
        assert society(hub_name, workplace, *small)
    assert (workplace / "runs/my-experiment/run.duckdb").exists()
    shutil.rmtree(workplace / "runs/my-experiment")


def test_a_model_behind_an_api(workplace, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    rows = [f'{{"q": "{n}+4", "reply": {n + 4}}}\n' for n in range(40)]
    (workplace / "questions.jsonl").write_text("".join(rows))
    [command] = [c for c in commands() if "api-experiment" in c]
    told = society(command, workplace)
    assert "the environment variable OPENAI_API_KEY is not set" in told
    assert "budget_usd = 25" in (workplace / "api-experiment.toml").read_text()


def test_a_key_is_explained(workplace):
    [command] = [c for c in commands() if " config " in c]
    assert "Rank of the adapters" in society(command, workplace)


def test_your_own_task(workplace):
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    [own] = [block for block in blocks if 'name = "file"' in block]
    rows = [f'{{"q": "How much is {n} plus 4?", "reply": {n + 4}}}\n' for n in range(40)]
    (workplace / "questions.jsonl").write_text("".join(rows))
    (workplace / "own-task.toml").write_text(
        f'model = "embedded:"\niterations = 0\nstop_if_unread = 0\nsampling.max_tokens = 16\n{own}'
    )
    few = ("--set=evaluation.questions=2", "--set=society.rounds=1")
    society(".venv/bin/society run own-task.toml", workplace, *few)
    shutil.rmtree(workplace / "runs/own-task")


@pytest.mark.long
def test_the_papers_comparison(workplace):
    [command] = [c for c in commands() if "paper-embedded" in c]
    few = ("iterations=0", "evaluation.questions=2", "zero_shot=[]", "diversity.measures=[]")
    told = society(command, workplace, *(f"--set={pair}" for pair in (*few, "seeds=[0, 1]")))
    assert "compute-matched-calls" in told
    assert (workplace / "runs/paper-embedded/report.html").exists()


def test_no_command_is_left_untested():
    names = (" demo", "my-experiment", "api-experiment", "paper-", " config ")
    tested = [c for c in commands() if any(name in c for name in names)]
    assert commands() == tested


def test_the_packaged_experiments_are_valid():
    for name in experiments.list_packaged():
        # Whether their models and questions can be had is up to the machine; see test_packaged.py.
        experiments.build_config(*experiments.read_table(name))
