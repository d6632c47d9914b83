"""Kill `society run` against an API with SIGKILL again and again, resume it, and compare.

    python tests/api_kill_and_resume.py [--kills 20] [--seed 0] [--folder FOLDER] [--drop-metadata]

Two iterations of three agents run through the real provider against `providers/job_server.py`,
once undisturbed and again killed: half of the kills fall on a random one of the requests that
upload a file or create a job, half on any request; the server kills at that moment, with the
request done or not done, and never answers it. In the end no job may exist twice for one
(iteration, agent, role), no file may have been uploaded twice, and turns, votes, datasets, models
and jobs must equal those of the undisturbed run. Exit status 0 when all of that holds.
"""

from __future__ import annotations

import argparse
import random
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from store.ledger import Store
from tests.providers.job_account import BASE, Json
from tests.providers.job_server import Server, serving

CONFIG = """
model = "openai+{url}:{base}"
iterations = 2
provider.poll_s = 0.1
provider.listing_lag_s = 0.5
[task]
name = "arithmetic"
[society]
agents = 3
[sampling]
top_p = 1.0
max_tokens = 64
[train]
questions = 30
[evaluation]
questions = 4
"""
SUBMITTING = "/files|/fine_tuning/jobs"
OWNER = re.compile(r"\ba(\d+)-(generator|critic)-it(\d+)-")
TABLES = {
    "turns": "turn_id, model_id, messages, response, answer, finish_reason, completion_tokens",
    "verdicts": "turn_id, agrees, correct",
    "votes": "*",
    "datasets": "dataset_id, iteration, arm, agent, role, examples, sha256",
    "dataset_examples": "dataset_id, turn_id, question_id",
    "models": "model_id, provider, parent_id, artifact, dataset_id, job_id",
    "jobs": "job_id, dataset_id, digest, status, trained_tokens",
    "training_points": "job_id, step, loss",
    "accuracy": "*",
}


def start(folder: Path, server: Server) -> subprocess.Popen[str]:
    """`society run` as a process of its own."""
    config = folder / "api.toml"
    config.write_text(CONFIG.format(url=server.url, base=BASE))
    command = [str(Path(sys.executable).with_name("society")), "run", str(config), "--name=run"]
    log = (folder / "output.log").open("a")
    return subprocess.Popen(
        [*command, f"--runs={folder}"], stdout=log, stderr=log, text=True, cwd=folder
    )


def finish(folder: Path, server: Server) -> None:
    """Run to the end."""
    status = start(folder, server).wait()
    assert status == 0, (folder / "output.log").read_text()


def kill_at(folder: Path, server: Server, request: Json) -> bool:
    """Start, and be killed at the described request. False: the run ended before it came."""
    process = start(folder, server)
    server.tell(kill={"pid": process.pid, **request})
    return process.wait() == -signal.SIGKILL


def contents(folder: Path) -> dict[str, list[tuple[object, ...]]]:
    """Everything that must not depend on whether the run was disturbed."""
    with Store.open(folder / "run" / "run.duckdb", read_only=True) as store:
        return {
            table: sorted(store.rows(f"SELECT {columns} FROM {table}"), key=repr)
            for table, columns in TABLES.items()
        }


def require_nothing_twice(server: Server) -> None:
    """No file of one name, no two jobs for one (iteration, agent, role)."""
    state = server.state()
    names = Counter(file["filename"] for file in state["files"].values())
    assert max(names.values(), default=1) == 1, f"uploaded twice: {names.most_common(3)}"
    owners = Counter(
        OWNER.search(job["user_provided_suffix"]).groups() for job in state["jobs"].values()
    )
    assert max(owners.values(), default=1) == 1, f"two jobs for one model: {owners.most_common(3)}"


def moments(log: list[Json], kills: int, chance: random.Random) -> list[Json]:
    """Which requests to die at, in the order in which they come."""
    submitting = [n for n, entry in enumerate(log) if _submits(entry)]
    rest = sorted(set(range(len(log))) - set(submitting))
    half = min(kills // 2, len(submitting))
    chosen = sorted([*chance.sample(submitting, half), *chance.sample(rest, kills - half)])
    planned: list[Json] = []
    for before, number in zip([-1, *chosen], chosen, strict=False):
        entry = log[number]
        path = SUBMITTING if _submits(entry) else ".*"
        passed = log[before + 1 : number + 1]
        nth = sum(_submits(e) == _submits(entry) for e in passed if e["method"] == entry["method"])
        done = chance.random() < 0.5
        # How often a job is asked after depends on the moment, so such a count is kept small.
        nth = min(nth, 20) if entry["method"] == "GET" else nth
        planned.append({"method": entry["method"], "path": path, "nth": nth, "done": done})
    return planned


def _submits(entry: Json) -> bool:
    return entry["method"] == "POST" and entry["path"] in SUBMITTING.split("|")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--drop-metadata", action="store_true", help="as some servers do")
    options = parser.parse_args()
    home = options.folder or Path(tempfile.mkdtemp(prefix="api-kill-"))
    whole = new_folder(home, "undisturbed")
    with serving(job_s=1.0, drop_metadata=options.drop_metadata) as server:
        finish(whole, server)
        require_nothing_twice(server)
        planned = moments(server.log(), options.kills, random.Random(options.seed))
        jobs = len(server.state()["jobs"])
    expected = contents(whole)
    different: set[str] = set()
    runs = 0
    while planned:
        # A run that ended before its kill came leaves the rest to another one.
        runs += 1
        killed = new_folder(home, f"killed-{runs}")
        # The address is part of every job's description: every server has the same port.
        with serving(server.port, job_s=1.0, drop_metadata=options.drop_metadata) as server:
            while planned and kill_at(killed, server, planned[0]):
                print(f"killed at {planned.pop(0)}", flush=True)
                require_nothing_twice(server)
            finish(killed, server)
            require_nothing_twice(server)
            assert len(server.state()["jobs"]) == jobs, "another number of jobs"
        found = contents(killed)
        different |= {table for table in TABLES if found[table] != expected[table]}
    names = ", ".join(sorted(different)) or "none"
    print(f"{options.kills} kills in {runs} runs of {jobs} jobs, differences: {names}")
    return 1 if different else 0


def new_folder(home: Path, name: str) -> Path:
    folder = home / name
    folder.mkdir(parents=True)
    return folder


if __name__ == "__main__":
    sys.exit(main())
