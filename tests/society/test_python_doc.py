"""docs/python.md runs as it stands, and importing this software does nothing but that."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[2] / "docs/python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def ran(experiment, tmp_path):
    """A folder with a finished run called demo."""
    command = "from society import cli; cli.main()"
    subprocess.run(
        [sys.executable, "-c", command, "run", experiment, "--name", "demo", "--no-live"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    return tmp_path


def test_the_example_runs(ran):
    for package in ("pandas", "pyarrow"):
        pytest.importorskip(package)
    checks = """
assert table.column_names == ["iteration", "decoding", "accuracy"]
assert len(frame) == len(asked_rows) == 6
assert flipped and all(agent == 3 for _, agent, *_ in flipped)
assert len(learnt) == dataset.examples > 0
assert len(turns) == 36
assert compared == [("demo", 1.0)]
"""
    code = "\n".join(BLOCKS).replace("store.close()", "asked_rows = asked.rows\nstore.close()")
    done = subprocess.run(
        [sys.executable, "-c", code + checks], cwd=ran, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "demo" in done.stdout
    assert "after 2 iterations, greedy: 100.0%" in done.stdout
    assert "train 8 at rest" in done.stdout


def test_importing_does_nothing_else(tmp_path):
    code = """
import sys, threading
path, threads = list(sys.path), threading.enumerate()
import society
import store.ledger, store.reader, store.together
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
