"""Servers on a cluster of three nodes, of which some are killed; for `test_cluster_serving.py`.

    unshare -n bash -c 'ip link set lo up && exec "$@"' _ python serving_program.py FOLDER

with the repository in PYTHONPATH.

Ray listens on every interface, so it gets a network of its own. Writes FOLDER/result.json.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from ray.cluster_utils import Cluster

from providers.cluster.settings import ClusterSettings
from providers.serving.planning import ManagedServing
from providers.serving.preflight import preflight_managed
from providers.serving.settings import AdapterNeed, EngineSettings
from providers.types import Message, Need, Request, Sampling
from society import notebook
from tests.kill_and_resume import contents
from tests.providers.engine_environment import EngineEnvironment, make_adapter, open_managed
from tests.providers.engine_stand_in import answer

CLUSTER = ClusterSettings("auto")
EXPERIMENT = """
model = "embedded:"
iterations = 1
seed = 3
task = {{ name = "arithmetic" }}
society = {{ agents = 2, rounds = 2, others = "quoted" }}
train = {{ questions = 8 }}
evaluation = {{ questions = 200, decodings = ["greedy"] }}
finetune = {{ generator_epochs = 1, critic_epochs = 1 }}
provider = {{ threads = 1, device = "cpu", dtype = "float32" }}
[serving]
engine = "vllm"
python = "{python}"
canary = false
{more}
"""


def count_by_server(environment, since=0):
    return Counter(event["pid"] for event in environment.events("answer")[since:])


async def ask_all(provider, models, count, prefix):
    """Whether all of many requests got the answers of their models."""

    async def one(number):
        text = f"{prefix} {number}"
        model = models[number % len(models)]
        request = Request(model, (Message("user", text),), Sampling(max_tokens=8), text)
        said = (await provider.complete(request)).text
        return said == answer(model.artifact.encode(), [{"role": "user", "content": text}])

    return all(await asyncio.gather(*map(one, range(count))))


async def lose_a_node(environment, folder, kill):
    """Two servers share the calls; the node of one is lost, and a third one takes its place."""
    workdir = folder / "run" / "models"
    models = [make_adapter(workdir, f"a{number}") for number in range(3)]
    cluster = ClusterSettings("auto", send_files="always")
    provider = open_managed(environment, workdir, 3, cluster=cluster, servers=2)
    told, found = [], {}
    provider.listen(told.append)
    await provider.load_adapters(models)
    found["before"] = await ask_all(provider, models, 300, "before")
    found["shares"] = sorted(count_by_server(environment).values())
    since = len(environment.events("answer"))
    asking = asyncio.create_task(ask_all(provider, models, 600, "meanwhile"))
    while len(environment.events("answer")) < since + 150:  # noqa: ASYNC110 - as below
        await asyncio.sleep(0.02)
    kill()
    found["meanwhile"] = await asking
    while len(environment.events("load")) < 9:  # noqa: ASYNC110 - another process writes them
        await asyncio.sleep(0.1)
    since = len(environment.events("answer"))
    third = environment.events("start")[2]["pid"]
    while not count_by_server(environment, since)[third]:
        found["after"] = await ask_all(provider, models, 60, f"after {time.monotonic()}")
    await provider.close()
    found["starts"] = len(environment.events("start"))
    found["loaded"] = sorted({Path(each["path"]).name for each in environment.events("load")})
    found["running"] = len(environment.running())
    found["sent"] = not any(str(workdir) in each["path"] for each in environment.events("load"))
    found["told"] = told
    return found


def show_plan(environment, folder, **changes):
    """What the doctor says."""
    engine = EngineSettings("vllm", python=environment.python, **changes)
    managed = ManagedServing(engine, AdapterNeed(4, 4), cluster=CLUSTER)
    need = Need(finetune=True, ends_at=datetime.now(UTC))
    _, report = asyncio.run(preflight_managed(managed, "embedded:", {}, folder, need))
    return [(found.level, found.text) for found in report.findings]


def run_twice(environment, folder, kill):
    """The tables of a run on the cluster, which loses the node of a server in the middle of its
    last debates, and of an undisturbed run on this machine."""
    told = []

    def watch():
        # The second start of two servers is the one after training.
        while len(environment.events("start")) < 4 or len(environment.events("load")) < 8:
            time.sleep(0.05)
        time.sleep(0.5)
        kill(environment.events("start")[3]["pid"])

    (folder / "e.toml").write_text(EXPERIMENT.format(python=environment.python, more="servers = 2"))
    config = notebook.load_config(folder / "e.toml", ["cluster={ray='auto'}"])
    threading.Thread(target=watch, daemon=True).start()
    there = notebook.run(config, "run", folder / "there", observer=lambda e: told.append(str(e)))
    running = len(environment.running())
    starts = len(environment.events("start"))
    (folder / "e.toml").write_text(EXPERIMENT.format(python=environment.python, more=""))
    config = notebook.load_config(folder / "e.toml")
    here = notebook.run(config, "run", folder / "here", observer=lambda event: None)
    one, other = contents(here.path), contents(there.path)
    return {
        "rows": {table: len(rows) for table, rows in one.items()},
        "differ": [table for table in one if one[table] != other[table]],
        "told": [text for text in told if "died" in text],
        "running": running,
        "starts": starts,
    }


def kill_a_run(environment, folder):
    """How many processes of servers are left after `kill -9` of the run that had them."""
    program = [sys.executable, __file__, "ask", str(environment.folder), str(folder)]
    run = subprocess.Popen(program, stdout=subprocess.PIPE)
    first = run.stdout.readline()
    running = len(environment.running())
    os.kill(run.pid, signal.SIGKILL)
    until = time.monotonic() + 120.0
    while environment.running() and time.monotonic() < until:
        time.sleep(0.1)
    return [first.decode(), running, len(environment.running())]


async def ask_until_killed(folder, workdir):
    environment = EngineEnvironment.__new__(EngineEnvironment)
    environment.folder = folder
    model = make_adapter(workdir, "a0")
    provider = open_managed(environment, workdir, cluster=CLUSTER, servers=2)
    await provider.load_adapters([model])
    print(await ask_all(provider, [model], 20, "hello"), flush=True)
    await asyncio.sleep(600)


def find_node(nodes, pid):
    """The node whose raylet is an ancestor of a process's session leader, by the watched group."""
    raylets = {node.all_processes["raylet"][0].process.pid: node for node in nodes}
    while pid not in raylets:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return raylets[pid]


def main(folder: Path) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
    os.environ["RAY_ADDRESS"] = cluster.address

    def kill(pid):
        node = find_node(nodes, pid)
        nodes.remove(node)
        cluster.remove_node(node, False)

    def make(name):
        return EngineEnvironment(folder / name, version="0.32.0+cpu")

    environment = make("one")
    result = {
        "plan": show_plan(environment, folder),
        "too many": show_plan(environment, folder, servers=5),
    }
    environment.behave(answer_s=0.01)
    result["lost"] = asyncio.run(
        lose_a_node(environment, folder, lambda: kill(environment.events("start")[0]["pid"]))
    )
    nodes.append(cluster.add_node(num_cpus=1))
    result["killed"] = kill_a_run(make("two"), folder / "killed" / "models")
    environment = make("three")
    environment.behave(answer_s=0.01)
    result["run"] = run_twice(environment, folder, kill)
    Path(folder, "result.json").write_text(json.dumps(result))
    os._exit(0)


if __name__ == "__main__":
    if sys.argv[1] == "ask":
        asyncio.run(ask_until_killed(Path(sys.argv[2]), Path(sys.argv[3])))
    main(Path(sys.argv[1]))
