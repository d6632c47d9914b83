"""Kill `society run` on Tinker's wire with SIGKILL again and again, resume it, and compare.

    python tests/tinker_kill_and_resume.py [--kills 20] [--seed 0] [--folder FOLDER]

Two iterations of three agents run through the real provider and the vendor's SDK against
`providers/tinker_server.py`, once undisturbed and again killed. Half of the kills fall on a random
one of the requests that train, save or load adapters, half on any; the server kills at that moment,
with the request done or not done, and never answers it. It applies a request twice that is sent
twice, holds one adapter more than the society has, and draws an answer from its seed alone. An
adapter whose name the client never got is freed as by its session's time-out.

In the end every adapter must have the bits of the undisturbed run and every optimizer step in it
once and in order, no slot may be held, and what the database holds must be equal. Exit status 0
when all of that holds.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import peft  # noqa: F401
import tinker  # noqa: F401
import transformers  # noqa: F401

sys.path.insert(0, str(Path(__file__).parents[1]))

import providers.tinker.provider  # noqa: F401
from store.ledger import Store
from tests.forked_command import ForkedCommand
from tests.providers.tinker_adapters import ALPHA, BASE
from tests.providers.tinker_futures import Json
from tests.providers.tinker_server import TinkerServer, serving_tinker

CONFIG = """
model = "tinker+{url}:embedded"
iterations = 2
[provider]
tokenizer = {tokenizer}
loss_reduction = "mean"
save_every = 2
poll_s = 0.05
limits = {{ max_concurrent = 16 }}
[task]
name = "arithmetic"
[society]
agents = 3
rounds = 2
[sampling]
max_tokens = 112
[train]
questions = 12
[evaluation]
questions = 2
decodings = ["sampled"]
[datasets]
critic_loss = "all"
[finetune]
learning_rate = 1e-3
max_grad_norm = 0
batch_size = 4
generator_epochs = 1
critic_epochs = 1
lora_rank = 8
lora_alpha = {alpha}
"""
SLOTS = 7
"""2N + 1: a leaked slot is missed at once."""
TRAINING = (
    *("create_model", "forward_backward", "optim_step", "save_weights", "load_weights"),
    *("save_weights_for_sampler", "unload_model"),
)
TABLES = {
    "turns": "turn_id, model_id, messages, response, answer, finish_reason, completion_tokens",
    "verdicts": "turn_id, agrees, correct",
    "votes": "*",
    "datasets": "dataset_id, iteration, arm, agent, role, examples, sha256",
    "dataset_examples": "dataset_id, turn_id, question_id",
    "training_points": "job_id, step, loss",
    "jobs": "job_id, dataset_id, status, trained_tokens",
}


@dataclass
class Trial:
    """`society run` in a folder, against a server."""

    folder: Path
    server: TinkerServer

    def start(self) -> ForkedCommand:
        """`society run` as a process of its own."""
        config = self.folder / "tinker.toml"
        tokenizer = json.dumps(str(BASE))
        config.write_text(CONFIG.format(url=self.server.url, tokenizer=tokenizer, alpha=ALPHA))
        arguments = ["run", str(config), "--name=run", f"--runs={self.folder}", "--no-live"]
        with (self.folder / "output.log").open("a") as log:
            return ForkedCommand.start(arguments, log)

    def finish(self) -> None:
        """Run to the end."""
        assert self.start().wait() == 0, (self.folder / "output.log").read_text()

    def kill_at(self, request: Json) -> bool:
        """Start, and be killed at the described request. False: it ended before that came."""
        process = self.start()
        self.server.tell(kill={"pid": process.pid, **request})
        killed = process.wait() == -signal.SIGKILL
        self.server.tell(kill=None)
        if killed:
            print(f"killed at {request}", flush=True)
            self.free_nameless()
        return killed

    def free_nameless(self) -> None:
        """Free the adapters that were being made, whose names the client never got: only the server
        can, once their session has timed out."""
        records = (self.folder / "run" / "models").glob(".slots-*.json")
        known = {name for path in records for name in json.loads(path.read_text() or "[]")}
        for name in set(self.server.state()["slots"]["in_use"]) - known:
            self.server.expire(name)

    def read_tables(self) -> dict[str, list[tuple[object, ...]]]:
        """Everything in the database that must not depend on whether the run was disturbed."""
        with Store.open(self.folder / "run" / "run.duckdb", read_only=True) as store:
            return {
                table: sorted(store.rows(f"SELECT {columns} FROM {table}"), key=repr)
                for table, columns in TABLES.items()
            }

    def read_adapters(self) -> dict[str, Json]:
        """The society's adapters by the names of their models: their bits and their steps."""
        with Store.open(self.folder / "run" / "run.duckdb", read_only=True) as store:
            rows = store.rows("SELECT model_id, artifact FROM models WHERE artifact IS NOT NULL")
        saved = self.server.state()["saved"]
        return {
            name: {key: saved[artifact][key] for key in ("sha256", "history")}
            for name, artifact in rows
        }


def choose_moments(log: list[Json], kills: int, chance: random.Random) -> list[Json]:
    """Which requests to die at, in the order in which they come."""
    training = [n for n, entry in enumerate(log) if entry["path"] in TRAINING]
    rest = sorted(set(range(len(log))) - set(training))
    chosen = sorted(
        [*chance.sample(training, kills // 2), *chance.sample(rest, kills - kills // 2)]
    )
    planned: list[Json] = []
    for before, number in zip([-1, *chosen], chosen, strict=False):
        path = log[number]["path"]
        alike = [entry for entry in log[before + 1 : number + 1] if entry["path"] == path]
        # How often results are asked after, and sessions kept alive, depends on the moment.
        nth = min(len(alike), 20) if path not in TRAINING else len(alike)
        planned.append({"path": path, "nth": nth, "done": chance.random() < 0.5})
    return planned


@contextmanager
def trial(folder: Path, port: int) -> Iterator[Trial]:
    """A new folder and a new server, at the port given: it is part of every job's description."""
    folder.mkdir(parents=True)
    with serving_tinker(folder / "server", port, process=True, slots=SLOTS) as server:
        yield Trial(folder, server)


def compare(whole: dict[str, Json], found: dict[str, Json]) -> list[str]:
    """What is wrong with the adapters of a disturbed run."""
    if whole.keys() != found.keys():
        return [f"adapters {sorted(found)} instead of {sorted(whole)}"]
    return [
        f"{name}: {key} differs"
        for name in whole
        for key in whole[name]
        if found[name][key] != whole[name][key]
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args(arguments)
    home = options.folder or Path(tempfile.mkdtemp(prefix="tinker-kill-"))
    chance = random.Random(options.seed)
    with trial(home / "undisturbed", 0) as whole:
        whole.finish()
        tables, adapters = whole.read_tables(), whole.read_adapters()
        log, port = whole.server.log(), whole.server.port
        assert whole.server.state()["slots"]["in_use"] == [], "the undisturbed run holds slots"
    steps = sum(len(adapter["history"]) for adapter in adapters.values())
    planned = choose_moments(log, options.kills, chance)
    faults: set[str] = set()
    runs = kills = 0
    while planned:
        # A run that ended before its kill came leaves the rest to another one.
        runs += 1
        with trial(home / f"killed-{runs}", port) as killed:
            while planned and killed.kill_at(planned[0]):
                planned.pop(0)
                kills += 1
            killed.finish()
            found = killed.read_tables()
            faults |= {f"table {name} differs" for name in TABLES if found[name] != tables[name]}
            faults |= set(compare(adapters, killed.read_adapters()))
            held = killed.server.state()["slots"]["in_use"]
            faults |= {f"slots are held: {held}"} if held else set()
    print(f"{len(adapters)} adapters, {steps} optimizer steps")
    print(f"{kills} kills in {runs} runs, faults: {'; '.join(sorted(faults)) or 'none'}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
