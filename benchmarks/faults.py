"""Debates against a server that fails three times in ten.

    python benchmarks/faults.py [--questions N] [--requests-per-minute N]

llmock (https://github.com/JulienRabault/LLMock) refuses a tenth of the requests with 429 and a
tenth with 503, and enforces a budget per minute, which it tells in its headers; a gateway before it
breaks another tenth: resets, half a body, no JSON. Every turn has to be there once, with few
requests more than the faults themselves cost (1 / 0.7 = 1.43 for each turn).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp

from evals.tasks.arithmetic import create
from providers import registry
from providers.types import Sampling
from society.method.agents import Society
from society.method.debate import Debate, DebateRules
from store.ledger import Store
from store.records import StageKey

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "providers"))
from chat_server import ChatServer, gateway

AGENTS, ROUNDS = 3, 2
REQUESTS_GOAL = 1.6


def main() -> int:
    """Print what the debates took; 1 where a turn is missing or the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--questions", type=int, default=2000)
    parser.add_argument("--requests-per-minute", type=int, default=3000)
    options = parser.parse_args()
    turns = options.questions * AGENTS * ROUNDS
    print(f"faults: {options.questions:,} debates, {turns:,} turns")
    with (
        _llmock(options.requests_per_minute) as upstream,
        tempfile.TemporaryDirectory() as folder,
        Store.open(Path(folder) / "run.duckdb") as store,
    ):
        began = time.perf_counter()
        requests = asyncio.run(_debated(upstream, store, options.questions))
        seconds = time.perf_counter() - began
        stored, different, votes = store.rows(
            "SELECT (SELECT count(*) FROM turns), (SELECT count(DISTINCT turn_id) FROM turns), "
            "(SELECT count(*) FROM votes)"
        )[0]
    ratio = requests / turns
    print(f"  {stored:,} turns stored, {different:,} of them different, {votes:,} votes")
    print(f"  {requests:,} requests in {seconds:,.0f} s")
    print(f"  ratio {ratio:.2f}, goal {REQUESTS_GOAL}\n")
    complete = stored == different == turns and votes == options.questions * ROUNDS
    return 0 if complete and ratio <= REQUESTS_GOAL else 1


async def _debated(upstream: str, store: Store, questions: int) -> int:
    """How many requests the debates took."""
    task = create({})
    sampling = Sampling(max_tokens=64)
    rules = DebateRules(ROUNDS, "quoted", sampling, sampling, drop_ties=True)
    async with (
        aiohttp.ClientSession() as session,
        ChatServer(gateway(upstream, session, 0.1, seed=1)) as server,
    ):
        provider = registry.connect(f"openai+{server.url}:gpt-4o-mini", {}, Path())
        debate = Debate(
            Society.from_bases([provider.base] * AGENTS, provider.base),
            task,
            {provider.base.address: provider},
            store,
            StageKey(1, "train", "multiagent", "sampled"),
            rules,
        )
        try:
            async for _ in debate.run(task.questions("train", 0, questions)):
                pass
        finally:
            await provider.close()
        return len(server.asked)


@contextmanager
def _llmock(requests_per_minute: int) -> Iterator[str]:
    """The URL of an llmock in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    rates = {"LLMOCK_ERROR_RATE_429": "0.111", "LLMOCK_ERROR_RATE_503": "0.111"}
    command = [sys.executable, "-m", "uvicorn", "llmock.main:create_app", "--factory"]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--log-level", "error"],
        env={**os.environ, **rates, "LLMOCK_RPM": str(requests_per_minute)},
    )
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    raise SystemExit(main())
