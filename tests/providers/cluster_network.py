"""Programs of tests that start a Ray cluster, each in a network of its own.

Ray listens on every interface.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's own processes may take minutes to start beside other tests.
    "RAY_agent_register_timeout_ms": "600000",
    "RAY_raylet_start_wait_time_s": "600",
    # Its workers would give way to every other process.
    "RAY_worker_niceness": "0",
}


def run_apart(program: Path, folder: Path, *paths: Path) -> tuple[Any, str]:
    """The `result.json` that `python program folder` has written to the folder, and what it said.

    `paths` are importable there, as is the repository. Skips the test where Ray is not installed,
    or no network can be made.
    """
    pytest.importorskip("torch")
    pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
    apart = ["unshare", "-n", "bash", "-c", 'ip link set lo up && exec "$@"', "_"]
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"], check=False).returncode:
        pytest.skip("no network of its own can be made here (unshare -n), and Ray listens on all")
    path = os.pathsep.join(map(str, (*paths, ROOT)))
    done = subprocess.run(
        [*apart, sys.executable, program, folder],
        env=os.environ | SETTINGS | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (folder / "result.json").is_file(), done.stdout + done.stderr
    return json.loads((folder / "result.json").read_text()), done.stdout
