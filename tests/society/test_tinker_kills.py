"""`society run` on Tinker's wire, killed at random moments of its training and answering."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "tinker_kill_and_resume.py"


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_kills_leave_equal_adapters_every_step_once_and_no_slot(tmp_path):
    pytest.importorskip("tinker")
    done = subprocess.run(
        [sys.executable, SCRIPT, "--kills=4", f"--folder={tmp_path}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 kills in" in done.stdout
