"""`society run` killed at random moments; `tests/kills.py` by hand kills more often."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "kills.py"


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_kills_in_every_stage_lose_double_and_pay_nothing_twice(tmp_path):
    pytest.importorskip("torch")
    done = subprocess.run(
        [sys.executable, SCRIPT, "--kills=10", "--seed=1"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 kills in" in done.stdout
    assert "2 kills, differences: none" in done.stdout
