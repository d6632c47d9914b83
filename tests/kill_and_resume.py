"""Kill `society run` with SIGKILL again and again, resume it, and compare with an undisturbed run.

    python tests/kill_and_resume.py CONFIG [--kills 60] [--seed 0] [--set key=value]…

The kills are spread over the run's stages; within its stage each falls at a random moment. After
every kill the database is opened and what it holds is remembered. In the end nothing that was
stored may be missing, changed or doubled, no finished adapter may have been trained again, and
answers, votes, datasets, models and the final table must equal those of the undisturbed run.
Exit status 0 when all of that holds. On the whole packaged demo it takes about half an hour.

The runs are forked from one process that has the heavy imports behind it; each is otherwise a
`society run` of its own.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import peft  # noqa: F401
import transformers  # noqa: F401

sys.path.insert(0, str(Path(__file__).parents[1]))

from store.ledger import Store
from tests.forked_command import ForkedCommand

_STAGE = re.compile(r"^(?P<title>(untuned society|iteration \d+/\d+) · [a-z ]+): ")
_TABLES = {
    "turns": "turn_id, model_id, messages, response, answer, finish_reason, completion_tokens",
    "verdicts": "turn_id, agrees, correct",
    "votes": "*",
    "datasets": "dataset_id, iteration, arm, agent, role, examples, sha256",
    "dataset_examples": "dataset_id, turn_id, question_id",
    "models": "model_id, parent_id, sha256",
    "training_points": "job_id, step, loss, learning_rate",
    "accuracy": "*",
    "consensus": "*",
    "diversity": "iteration, decoding, role, measure, responses, value, low, high, questions",
}


@dataclass
class Witness:
    """What was seen in the database and on disk after the kills so far."""

    turns: dict[int, str] = field(default_factory=dict)
    adapters: dict[str, int] = field(default_factory=dict)

    def look(self, run: Path) -> None:
        """Check that nothing seen before is gone or different, and remember what is new."""
        if (run / "run.duckdb").exists():
            with Store.open(run / "run.duckdb") as store:
                rows = store.rows("SELECT turn_id, response FROM turns")
            stored = dict(rows)
            assert len(stored) == len(rows), "a turn is stored twice"
            lost = self.turns.items() - stored.items()
            assert not lost, f"{len(lost)} stored turns are gone or changed"
            self.turns = stored
        # Not the hidden folder of an adapter that was being written: it is made again.
        made = run.glob("models/[!.]*/manifest.json")
        there = {manifest.parent.name: manifest.stat().st_mtime_ns for manifest in made}
        again = self.adapters.items() - there.items()
        assert not again, f"finished adapters were trained again: {sorted(dict(again))}"
        self.adapters = there


def undisturbed(arguments: Sequence[str], log: Path) -> dict[str, float]:
    """Run to the end; returns the length in seconds of every stage."""
    child, lengths, last = ForkedCommand.start(arguments), {}, None
    for line in child.output:
        match = _STAGE.match(line)
        if match and match["title"] not in lengths:
            now = time.monotonic()
            if last is not None:
                lengths[last] = now - lengths[last]
            last = match["title"]
            lengths[last] = now
    if last is not None:
        lengths[last] = time.monotonic() - lengths[last]
    assert child.wait() == 0, f"the undisturbed run failed, see {log}"
    return lengths


def kill_in(arguments: Sequence[str], stage: str, delay: float, log: Path) -> bool:
    """Start, wait for a stage, kill `delay` seconds into it. False: the run ended before."""
    child = ForkedCommand.start(arguments)
    for line in child.output:
        if line.startswith(f"{stage}: "):
            time.sleep(delay)
            os.kill(child.pid, signal.SIGKILL)
            break
    return child.wait() == -signal.SIGKILL


def contents(run: Path) -> dict[str, list[tuple[object, ...]]]:
    """Everything that must not depend on whether the run was disturbed."""
    with Store.open(run / "run.duckdb") as store:
        return {
            table: sorted(map(_rounded, store.rows(f"SELECT {columns} FROM {table}")), key=repr)
            for table, columns in _TABLES.items()
        }


def _rounded(row: tuple[object, ...]) -> tuple[object, ...]:
    # Means over rows in another order of arrival differ in their last bits.
    return tuple(round(cell, 12) if isinstance(cell, float) else cell for cell in row)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    home = options.folder or Path(tempfile.mkdtemp(prefix="kill-and-resume-"))
    log = home / "stderr.log"
    shared = [f"--set={pair}" for pair in options.set]

    def command(runs: str) -> list[str]:
        return ["run", options.config, "--name", "run", "--runs", str(home / runs), *shared]

    lengths = undisturbed(command("undisturbed"), log)
    stages = list(lengths)
    planned = [stages[i * len(stages) // options.kills] for i in range(options.kills)]
    disturbed: list[str] = []
    while planned:
        # A run that ended before its kill came leaves the rest to another one.
        disturbed.append(f"killed-{len(disturbed) + 1}")
        witness = Witness()
        alive = True
        while planned and alive:
            delay = chance.uniform(0, lengths[planned[0]])
            alive = kill_in(command(disturbed[-1]), planned[0], delay, log)
            if alive:
                print(f"killed {delay:.2f} s into {planned.pop(0)}", flush=True)
            witness.look(home / disturbed[-1] / "run")
        assert ForkedCommand.start(command(disturbed[-1])).wait() == 0, f"no end, see {log}"
        witness.look(home / disturbed[-1] / "run")
        print(f"{len(witness.turns)} turns, {len(witness.adapters)} adapters", flush=True)

    expected = contents(home / "undisturbed" / "run")
    found = [contents(home / name / "run") for name in disturbed]
    different = [table for table in _TABLES if any(f[table] != expected[table] for f in found)]
    print(f"{options.kills} kills, differences: {', '.join(different) or 'none'}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
