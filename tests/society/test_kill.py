"""`society run` killed at random moments; `tests/kill_and_resume.py` by hand kills more often."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "kill_and_resume.py"
SMALL = (
    "iterations=2",
    "train.questions=16",
    "evaluation.questions=4",
    "finetune.generator_epochs=1",
)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_kills_change_nothing(tmp_path):
    pytest.importorskip("torch")
    settings = [f"--set={pair}" for pair in SMALL]
    done = subprocess.run(
        [sys.executable, SCRIPT, "demo", "--kills=5", f"--folder={tmp_path}", *settings],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 kills, differences: none" in done.stdout


@pytest.mark.long
@pytest.mark.timeout(900)
def test_kills_in_every_stage_lose_double_and_pay_nothing_twice():
    pytest.importorskip("torch")
    done = subprocess.run(
        [sys.executable, SCRIPT.with_name("kills.py"), "--kills=24", "--seed=1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "18 kills in" in done.stdout
    assert "6 kills, differences: none" in done.stdout
