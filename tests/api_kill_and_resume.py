"""Kill `society run` against an API with SIGKILL again and again, resume it, and compare.

    python tests/api_kill_and_resume.py [--kills 140] [--seed 0] [--stages calls,batches,…]
                                        [--folder FOLDER] [--drop-metadata]

Two iterations of three agents run through the real provider against `providers/job_server.py`,
once undisturbed and again killed. The kills are shared among `STAGES`:

- calls: half fall on a random one of the requests that upload a file or create a job, half on any;
- batches: the same of a run that evaluates in batches, which are created too;
- diversity: half fall on a request that scores an answer, half on any;
- deployments: half fall on a random one of the requests that upload a file, create a job or deploy
  a tuned model at Azure, half on any;
- cancel: the run is killed while its jobs go on, then `society cancel` at one of its requests.

The server kills at that moment, with the request done or not done, and never answers it. In the
end no job, batch or deployment may exist twice for one purpose, no file may have been uploaded
twice, no call may have been made again but those that were on their way, and turns, votes,
datasets, models and jobs must equal those of the undisturbed run. After `society cancel` jobs are
new ones, and so are their models and what these answer; there the numbers have to be equal. Exit
status 0 when all of that holds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp  # noqa: F401
import openai  # noqa: F401

sys.path.insert(0, str(Path(__file__).parents[1]))

import providers.openai.factory  # noqa: F401
from store.ledger import Store
from tests.forked_command import ForkedCommand
from tests.providers.azure_account import GROUP, RESOURCE, SUBSCRIPTION, TOKEN
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
CONCURRENT = 4
# What one kill may lose: the calls on their way, and answers that were about to be stored.
_AGAIN = 4 * CONCURRENT
TOKEN_VARIABLE = "SOCIETY_TEST_AZURE_TOKEN"
STAGES = {
    "calls": (),
    "batches": ("evaluation.batch=true",),
    "diversity": ('diversity.measures=["nll","kl"]', 'provider.score="vllm"'),
    "deployments": (
        f'provider.deployment={{subscription="{SUBSCRIPTION}",resource_group="{GROUP}",'
        f'account="{RESOURCE}",sku="Standard",token_env="{TOKEN_VARIABLE}",url="URL"}}',
    ),
    "cancel": (),
}
SUBMITTING = "/files|/fine_tuning/jobs|/batches"
DEPLOYMENT = "/subscriptions/.*"
CHAT = "/chat/completions"
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
    "accuracy": "* EXCLUDE (standard_error, ci_low, ci_high)",
    "diversity": "iteration, decoding, role, measure, responses, round(value, 9), questions, pairs",
}


@dataclass
class Trial:
    """The kills of one stage: `society` in a folder, against a server."""

    stage: str
    folder: Path
    server: Server

    def start(self, command: str = "run") -> ForkedCommand:
        """`society run` or `society cancel` as a process of its own."""
        config = self.folder / "api.toml"
        config.write_text(CONFIG.format(url=self.server.url, base=BASE))
        more = (f"provider.limits.max_concurrent={CONCURRENT}", *STAGES[self.stage])
        options = {
            "run": [
                *(str(config), "--name=run"),
                *(f"--set={each.replace('URL', self.server.url[:-3])}" for each in more),
            ],
            "cancel": ["run"],
        }
        with (self.folder / "output.log").open("a") as log:
            return ForkedCommand.start([command, *options[command], f"--runs={self.folder}"], log)

    def finish(self, command: str = "run") -> None:
        """Run to the end."""
        status = self.start(command).wait()
        assert status == 0, (self.folder / "output.log").read_text()

    def kill_at(self, request: Json, command: str = "run") -> bool:
        """Start, and be killed at the described request. False: it ended before that came."""
        process = self.start(command)
        self.server.tell(kill={"pid": process.pid, **request})
        killed = process.wait() == -signal.SIGKILL
        self.server.tell(kill=None)
        if killed:
            print(f"{self.stage}: killed {command} at {request}", flush=True)
            self.require_nothing_twice()
        return killed

    def contents(self) -> dict[str, list[tuple[object, ...]]]:
        """Everything that must not depend on whether the run was disturbed."""
        with Store.open(self.folder / "run" / "run.duckdb", read_only=True) as store:
            return {
                table: sorted(map(rounded, store.rows(f"SELECT {columns} FROM {table}")), key=repr)
                for table, columns in TABLES.items()
            }

    def require_nothing_twice(self) -> None:
        """No file of one name, no two living jobs for one model, no request in two batches."""
        state = self.server.state()
        uploaded = [f for f in state["files"].values() if f["purpose"] != "batch_output"]
        names = Counter(file["filename"] for file in uploaded)
        assert max(names.values(), default=1) == 1, f"uploaded twice: {names.most_common(3)}"
        owners = Counter(
            OWNER.search(job["user_provided_suffix"]).groups()
            for job in state["jobs"].values()
            if job["status"] != "cancelled"
        )
        assert max(owners.values(), default=1) == 1, f"two jobs for one: {owners.most_common(3)}"
        deployed = {name: d["times"] for name, d in state["deployments"].items()}
        assert max(deployed.values(), default=1) == 1, f"deployed twice: {deployed}"
        models = Counter(
            d["body"]["properties"]["model"]["name"] for d in state["deployments"].values()
        )
        assert max(models.values(), default=1) == 1, f"two deployments for one: {models}"
        asked = Counter(
            json.loads(line)["custom_id"]
            for batch in state["batches"].values()
            for line in state["contents"][batch["input_file_id"]].splitlines()
        )
        assert max(asked.values(), default=1) == 1, f"in two batches: {asked.most_common(3)}"

    def calls(self) -> Counter[str]:
        """How often every call has been made; those without messages only look for a model."""
        made = [entry["body"] for entry in self.server.log("POST", CHAT)]
        return Counter(json.dumps(body, sort_keys=True) for body in made if body["messages"])


def rounded(row: tuple[object, ...]) -> tuple[object, ...]:
    """A row whose means do not depend on the order in which its addends have arrived."""
    return tuple(round(cell, 12) if isinstance(cell, float) else cell for cell in row)


def moments(stage: str, log: list[Json], kills: int, chance: random.Random) -> list[Json]:
    """Which requests to die at, in the order in which they come."""

    def special(entry: Json) -> bool:
        if stage == "diversity":
            return entry["path"] == CHAT and "prompt_logprobs" in entry["body"]
        return _pattern(entry) in (SUBMITTING, DEPLOYMENT) and entry["method"] != "GET"

    chosen_ones = [n for n, entry in enumerate(log) if special(entry)]
    rest = sorted(set(range(len(log))) - set(chosen_ones))
    half = min(kills // 2, len(chosen_ones))
    chosen = sorted([*chance.sample(chosen_ones, half), *chance.sample(rest, kills - half)])
    planned: list[Json] = []
    for before, number in zip([-1, *chosen], chosen, strict=False):
        entry = log[number]
        path = _pattern(entry)
        passed = log[before + 1 : number + 1]
        alike = [e for e in passed if e["method"] == entry["method"] and _pattern(e) == path]
        # How often a job is asked after depends on the moment, so such a count is kept small.
        nth = min(len(alike), 20) if entry["method"] == "GET" else len(alike)
        done = chance.random() < 0.5
        planned.append({"method": entry["method"], "path": path, "nth": nth, "done": done})
    return planned


def _pattern(entry: Json) -> str:
    """The paths that count as the same as that of a request."""
    if entry["method"] == "POST" and entry["path"] in SUBMITTING.split("|"):
        return SUBMITTING
    if entry["method"] == "PUT":
        return DEPLOYMENT
    return CHAT if entry["path"] == CHAT else ".*"


def disturb(trial: Trial, planned: list[Json]) -> int:
    """Kill at the planned requests for as long as the run goes on; returns how often."""
    kills = 0
    while planned and trial.kill_at(planned[0]):
        planned.pop(0)
        kills += 1
    trial.finish()
    return kills


def cancel_and_kill(trial: Trial, kills: int, chance: random.Random) -> int:
    """Kill a run whose jobs go on, and the command that cancels them; returns how often."""
    done = 0
    trial.server.tell(job_s=600.0)
    while done < kills:
        poll = {"method": "GET", "path": r"/fine_tuning/jobs/[^/]+", "nth": chance.randint(9, 30)}
        assert trial.kill_at({**poll, "done": True}), "the run ended although its jobs had not"
        done += 1
        for _ in range(chance.randint(1, 2)):
            request = {"method": chance.choice(("GET", "POST")), "path": ".*"}
            request |= {"nth": chance.randint(1, 3), "done": chance.random() < 0.5}
            done += trial.kill_at(request, "cancel")
        trial.finish("cancel")
        living = [j for j in trial.server.state()["jobs"].values() if j["status"] != "cancelled"]
        assert not living, f"{len(living)} jobs go on although all were cancelled"
    trial.server.tell(job_s=1.0)
    trial.finish()
    return done


@contextmanager
def trial(stage: str, folder: Path, port: int, drop_metadata: bool) -> Iterator[Trial]:
    """A new folder and a new server, at the port given: it is part of every job's description."""
    folder.mkdir(parents=True)
    azure = stage == "deployments"
    with serving(port, job_s=1.0, drop_metadata=drop_metadata, azure=azure) as server:
        yield Trial(stage, folder, server)


def run_stage(
    stage: str, home: Path, kills: int, chance: random.Random, drop: bool
) -> tuple[int, set[str]]:
    """All kills of one stage; returns in how many runs, and the tables that differ in the end."""
    with trial(stage, home / f"{stage}-undisturbed", 0, drop) as whole:
        whole.finish()
        whole.require_nothing_twice()
        expected, jobs = whole.contents(), len(whole.server.state()["jobs"])
        calls, port = whole.calls(), whole.server.port
        log = whole.server.log()
    planned = [] if stage == "cancel" else moments(stage, log, kills, chance)
    different: set[str] = set()
    done = runs = 0
    while done < kills:
        # A run that ended before its kill came leaves the rest to another one.
        runs += 1
        with trial(stage, home / f"{stage}-killed-{runs}", port, drop) as killed:
            if stage == "cancel":
                done += cancel_and_kill(killed, kills, chance)
                sizes = {table: len(rows) for table, rows in killed.contents().items()}
                different |= {t for t in ("turns", "votes") if sizes[t] != len(expected[t])}
            else:
                before = done
                done += disturb(killed, planned)
                assert len(killed.server.state()["jobs"]) == jobs, "another number of jobs"
                again = (killed.calls() - calls).total()
                most = _AGAIN * (done - before)
                assert again <= most, f"{again} calls made again, at most {most} were not stored"
                found = killed.contents()
                different |= {table for table in TABLES if found[table] != expected[table]}
            killed.require_nothing_twice()
    print(f"{stage}: {done} kills, {runs} runs of {jobs} jobs", flush=True)
    return runs, {f"{stage}: {table}" for table in different}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=140)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--drop-metadata", action="store_true", help="as some servers do")
    options = parser.parse_args(arguments)
    os.environ[TOKEN_VARIABLE] = TOKEN
    home = options.folder or Path(tempfile.mkdtemp(prefix="api-kill-"))
    chance = random.Random(options.seed)
    stages = options.stages.split(",")
    shares = [options.kills * (n + 1) // len(stages) for n in range(len(stages))]
    different: set[str] = set()
    runs = 0
    for before, upto, stage in zip([0, *shares], shares, stages, strict=False):
        if upto > before:
            more, differing = run_stage(stage, home, upto - before, chance, options.drop_metadata)
            runs, different = runs + more, different | differing
    names = ", ".join(sorted(different)) or "none"
    print(f"{options.kills} kills in {runs} runs, differences: {names}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
