"""200 kills over all stages: those of `api_kill_and_resume.py`, then of `kill_and_resume.py`.

    python tests/kills.py [--kills 200] [--seed 0]

A quarter of the kills fall on a small local run (debates, datasets, fine-tuning, evaluation,
diversity), the others on runs against an API (calls, batches, diversity, `society cancel`). Exit
status 0 when nothing was lost, doubled or paid twice.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SMALL = (
    "iterations=2",
    "train.questions=16",
    "evaluation.questions=4",
    "finetune.generator_epochs=1",
    "finetune.critic_epochs=1",
)
MEASURED = ('diversity.measures=["nll","kl"]',)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    local = options.kills // 4
    settings = [f"--set={pair}" for pair in (*SMALL, *MEASURED)]
    commands = [
        ["api_kill_and_resume.py", f"--kills={options.kills - local}"],
        ["kill_and_resume.py", "demo", f"--kills={local}", *settings],
    ]
    failed = 0
    for name, *arguments in commands:
        line = [sys.executable, str(HERE / name), *arguments, f"--seed={options.seed}"]
        failed += subprocess.run(line, check=False).returncode != 0
    print(f"{options.kills} kills, {failed} of {len(commands)} parts found something")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
