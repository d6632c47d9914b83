"""Runs on a cluster of two nodes, one of which is killed; for `test_cluster_training.py`.

    unshare -n bash -c 'ip link set lo up && exec "$@"' _ python cluster_program.py FOLDER

with this folder and the repository in PYTHONPATH.

Ray listens on every interface, so it gets a network of its own. Writes FOLDER/result.json.
"""

import asyncio
import json
import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

from conftest import save_model
from ray.cluster_utils import Cluster
from test_training_workers import describe, make_spec

from providers import registry
from providers.cluster.settings import ClusterSettings
from providers.errors import ProviderError
from providers.preflight import preflight_cluster
from providers.types import Hyperparameters
from society import notebook
from tests.kill_and_resume import contents

SETTINGS = {"threads": 1, "dtype": "float32", "device": "cpu"}
EXPERIMENT = """
model = "embedded:"
iterations = 1
seed = 3
task = { name = "arithmetic" }
society = { agents = 2, rounds = 2, others = "quoted" }
train = { questions = 12 }
evaluation = { questions = 2, decodings = ["greedy"] }
finetune = { generator_epochs = 12, critic_epochs = 12 }
provider = { joint_training = "off" }
"""


async def train(provider, specs, stop_after=None):
    """The last states of jobs; with `stop_after` the first one is cancelled after so many steps."""
    handles = [await provider.submit(spec) for spec in specs]
    while True:
        states = [await provider.poll(handle) for handle in handles]
        if stop_after is not None and len(states[0].points) >= stop_after:
            await provider.cancel(handles[0])
        if all(state.done for state in states):
            return states
        await asyncio.sleep(0.02)


async def send_files(folder, cluster):
    """A chain of jobs, one of them interrupted, on nodes that see nothing and on this machine."""
    base = save_model(folder / "llama")
    address, found = f"local:{base}", {}
    for name, where in ("there", cluster), ("here", None):
        workdir = folder / name
        provider = registry.connect(address, SETTINGS, workdir, where)
        await provider.prepare_tuning(make_spec("first", address).hyperparameters)
        (first,) = await train(provider, [make_spec("first", address)])
        long = make_spec("second", address, start=first.model, steps=1000)
        faulty = make_spec("third", address, max_example_tokens=1)
        (stopped, failed) = await train(provider, [long, faulty], stop_after=3)
        kept = sorted(path.name for path in workdir.glob(".second*"))
        short = make_spec("fourth", address, start=replace(first.model))
        (last,) = await train(provider, [short])
        found[name] = [repr(describe(state)[:-1]) for state in (first, failed, last)]
        found[f"{name} stopped"] = [stopped.status, len(stopped.points) < 1000, kept]
        await provider.close()
    return found


def explain(address, settings, cluster, folder):
    """What the doctor says, and what a run says that finds no room."""
    recipe = Hyperparameters(lora_rank=4)
    report = asyncio.run(preflight_cluster(address, settings, cluster, folder, [recipe]))

    async def wait_in_vain():
        provider = registry.connect(address, settings, folder, replace(cluster, place_timeout_s=1))
        try:
            await provider.prepare_tuning(recipe)
        except ProviderError as error:
            return str(error)
        finally:
            await provider.close()

    findings = [(found.level, found.text) for found in report.findings]
    failure = None if findings[0][0] == "ok" else asyncio.run(wait_in_vain())
    return findings, failure


def run_twice(folder, nodes, kill):
    """The tables of a run on the cluster, whose first node is killed in the middle of training,
    and of an undisturbed run on this machine."""
    told, killed = [], threading.Event()

    def observe(event):
        told.append(str(event))
        if "loss" in getattr(event, "detail", "") and event.done > 0.1 and not killed.is_set():
            killed.set()
            kill(nodes[0])

    (folder / "e.toml").write_text(EXPERIMENT)
    config = notebook.load_config(folder / "e.toml")
    here = notebook.run(config, "run", folder / "here", observer=lambda event: None)
    config = notebook.load_config(folder / "e.toml", ["cluster={ray='auto'}"])
    there = notebook.run(config, "run", folder / "there", observer=observe)
    one, other = contents(here.path), contents(there.path)
    return {
        "killed": killed.is_set(),
        "rows": {table: len(rows) for table, rows in one.items()},
        "differ": [table for table in one if one[table] != other[table]],
        "told": [text for text in told if "broke off" in text],
    }


def main(folder: Path) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    os.environ["RAY_ADDRESS"] = cluster.address
    settings = ClusterSettings("auto")
    began = time.process_time()
    result = {
        "plan": explain("embedded:", {}, settings, folder),
        "no room": explain("embedded:", {"threads": 8}, settings, folder),
        "sent": asyncio.run(send_files(folder, replace(settings, send_files="always"))),
        "run": run_twice(folder, nodes, lambda node: cluster.remove_node(node, False)),
    }
    result["seconds"] = time.process_time() - began
    Path(folder, "result.json").write_text(json.dumps(result))
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
