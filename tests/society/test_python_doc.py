"""docs/python.md runs as it stands, and importing this software does nothing but that."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import society
from society.config.load import ConfigError
from society.method.progress import StageFinished

TEXT = (Path(__file__).parents[2] / "docs/python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def ran(experiment, tmp_path):
    """A folder with the experiment that the examples run."""
    experiment.rename(tmp_path / "my-experiment.toml")
    with (tmp_path / "script.jsonl").open("a", encoding="utf-8") as script:
        for agent in (1, 2, 3):
            for key in ("r1/answer", "r2/summary", "r2/answer"):
                line = {"key": f"eval/asked/a{agent}/{key}", "text": "\\boxed{-30}"}
                script.write(json.dumps(line) + "\n")
    return tmp_path


def test_the_example_runs(ran):
    for package in ("pandas", "pyarrow"):
        pytest.importorskip(package)
    checks = """
assert table.column_names == ["iteration", "decoding", "accuracy"]
assert len(frame) == len(asked_rows) == 6
assert flipped and all(agent == 3 for _, agent, *_ in flipped)
assert len(examples) == dataset.examples > 0
assert len(turns) == 36
assert compared == [("demo", 1.0)]
assert (found.iteration, found.votes, len(found.turns)) == (0, 3, 9)
assert [row.accuracy for row in votes] == [1.0] * 6
assert len(table_of_accuracies) == 18
assert [decoding for decoding, _ in best.fetchall()] == ["greedy", "sampled"]
"""
    code = "\n".join(BLOCKS).replace("run.close()", "asked_rows = result.rows\nrun.close()")
    done = subprocess.run(
        [sys.executable, "-c", code + checks], cwd=ran, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "demo" in done.stdout
    assert (ran / "runs/demo/report.html").is_file()
    assert "iteration 2/2 · finetune" in done.stderr
    assert "after 2 iterations, greedy: 100.0%" in done.stdout
    assert "the society of iteration 2 answers -30 (3 of 3 agents)" in done.stdout
    assert "2 -30\n0 -30" in done.stdout
    assert "train 8 at rest" in done.stdout


def test_importing_does_nothing_else(tmp_path):
    code = """
import sys, threading
path, threads = list(sys.path), threading.enumerate()
import society
import store.ledger, store.reader, store.union
heavy = {"torch", "transformers", "openai", "numpy", "pandas", "polars", "pyarrow", "rich"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert sys.path == path
assert threading.enumerate() == threads
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


async def test_a_run_in_a_notebook_whose_loop_is_running(experiment, tmp_path):
    events = []
    config = society.load_config(experiment, ["iterations=1"])
    folder = society.run(config, "note", tmp_path / "runs", observer=events.append)
    assert folder.report.is_file()
    assert sum(isinstance(event, StageFinished) for event in events) == 7
    with society.open_run("note", tmp_path / "runs") as run:
        assert run.finished
        assert run.query("SELECT count(*) FROM turns").rows[0][0] > 0
    with pytest.raises(ConfigError, match="no run 'none'"):
        society.open_run("none", tmp_path / "runs")


def test_the_package_names_what_it_offers():
    assert {"load_config", "run", "open_run", "load"} <= set(dir(society))
    assert society.load is society.open_run
    with pytest.raises(AttributeError, match="no attribute 'start'"):
        _ = society.start
