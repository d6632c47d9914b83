"""Debates at a vLLM of the run, on the local engine, and their bare requests by a plain client.

    SOCIETY_TEST_SERVERS=FOLDER python benchmarks/serving.py [--model FOLDER] [--questions N]

vLLM is that of `make test-servers`, on this machine's processor; without it, this says why and
measures nothing. Three ways take turns: debates of the untuned society on the local engine, the
same through a server of the run's own, and the requests that those debates sent, by a plain httpx
client at the same server's arguments: all of a round at once, as the debates send them. What is
compared is completion tokens per second, from the first request to the last answer. Prompts and
seeds are equal; the start of a server is not timed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from providers.embedded import MODEL_DIR
from store.ledger import Store
from tests.servers.environments import Environment, NotInstalled, find_environment
from tests.servers.recipes import VLLM
from tests.servers.running import running

ROOT = Path(__file__).parents[1]
GOAL = 0.9
MAX_TOKENS = 112
EXPERIMENT = """
model = {model}
iterations = 0
[task]
name = "arithmetic"
[society]
agents = 3
rounds = 2
others = "quoted"
[sampling]
temperature = 0.6
max_tokens = {tokens}
[evaluation]
questions = {questions}
decodings = ["sampled"]
[provider]
device = "cpu"
dtype = "float32"
"""
SERVING = """
[serving]
engine = "vllm"
python = {python}
canary = false
[serving.environment]
VLLM_CPU_KVCACHE_SPACE = "1"
HF_HUB_OFFLINE = "1"
"""
REQUESTS = "SELECT round, messages FROM turns WHERE kind = 'answer' ORDER BY round, turn_id"
SPAN = """
    SELECT sum(completion_tokens), epoch(max(created_at))
        - epoch(min(created_at - to_microseconds((1000 * latency_ms)::BIGINT)))
    FROM turns
"""


@dataclass(frozen=True)
class Debates:
    """One run's rate in completion tokens per second, its requests by round, its server's flags."""

    rate: float
    rounds: list[list[Any]]
    arguments: list[str]


def main() -> int:
    """Print tokens per second and their ratios; 1 where the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=str(MODEL_DIR), help="a folder (default: the built-in)")
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2, help="how often all three are measured")
    options = parser.parse_args()
    try:
        environment = find_environment(VLLM)
    except NotInstalled as reason:
        print(f"nothing measured: {reason}")
        return 0
    home = Path(tempfile.mkdtemp(prefix="serving-"))
    text = EXPERIMENT.format(
        model=json.dumps(f"local:{options.model}"), tokens=MAX_TOKENS, questions=options.questions
    )
    local, served, bare = [], [], []
    for number in range(options.rounds):
        local.append(hold_debates(home / f"local-{number}", text).rate)
        with_server = text + SERVING.format(python=json.dumps(str(environment.python)))
        debates = hold_debates(home / f"served-{number}", with_server)
        served.append(debates.rate)
        bare.append(ask_bare(environment, home / f"bare-{number}", options.model, debates))
        print(
            f"tokens/s: local engine {local[-1]:.0f}, society through vLLM {served[-1]:.0f}, "
            f"bare client {bare[-1]:.0f}",
            flush=True,
        )
    ratio = statistics.median(served) / statistics.median(bare)
    print(f"society / bare client: {ratio:.2f} (goal: at least {GOAL})")
    print(f"vLLM / local engine: {statistics.median(served) / statistics.median(local):.2f}")
    return int(ratio < GOAL)


def hold_debates(home: Path, text: str) -> Debates:
    """Run the untuned society's evaluation in a process of its own."""
    home.mkdir()
    (home / "debates.toml").write_text(text)
    subprocess.run(
        [sys.executable, "-m", "society", "run", "--quiet", "debates.toml"],
        cwd=home,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
    )
    with Store.open(home / "runs" / "debates" / "run.duckdb", read_only=True) as store:
        ((tokens, seconds),) = store.rows(SPAN)
        rounds = defaultdict(list)
        for number, messages in store.rows(REQUESTS):
            rounds[number].append(json.loads(messages))
        ((machine,),) = store.rows("SELECT machine::VARCHAR FROM run_starts")
    server = json.loads(machine).get("server") or {"arguments": ""}
    return Debates(tokens / seconds, list(rounds.values()), server["arguments"].split())


def ask_bare(environment: Environment, folder: Path, model: str, debates: Debates) -> float:
    """The rate of the same requests at a server with the same arguments."""

    def command(_: Path, port: int) -> list[str]:
        reached = ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "base"]
        return [
            "vllm",
            "serve",
            model,
            *reached,
            "--disable-uvicorn-access-log",
            *debates.arguments,
        ]

    recipe = replace(environment.recipe, command=command)
    recipe = replace(
        recipe, environment={**recipe.environment, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
    )
    with running(replace(environment, recipe=recipe), folder) as server:
        return asyncio.run(send_all(f"{server.url}/v1/chat/completions", debates.rounds))


async def send_all(url: str, rounds: list[list[Any]]) -> float:
    """Completion tokens per second, each round's requests all at once."""
    # The server closes a connection that was idle for five seconds, perhaps just as it is reused.
    limits = httpx.Limits(max_connections=None, keepalive_expiry=2.0)
    async with httpx.AsyncClient(timeout=600.0, limits=limits) as client:

        async def ask(seed: int, messages: Any) -> int:
            body = {
                "model": "base",
                "messages": messages,
                "temperature": 0.6,
                "max_tokens": MAX_TOKENS,
                "seed": seed,
            }
            answer = await client.post(url, json=body)
            answer.raise_for_status()
            return int(answer.json()["usage"]["completion_tokens"])

        tokens, started = 0, time.perf_counter()
        for requests in rounds:
            tokens += sum(await asyncio.gather(*(ask(n, m) for n, m in enumerate(requests))))
        return tokens / (time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(main())
