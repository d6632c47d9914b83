"""A served society under load, and what `society:fast` saves.

    python benchmarks/serve.py RUN [--requests N] [--concurrent N] [--questions N] [--part PART]

RUN is the folder of a run with a model on this machine, such as runs/demo; without it, a short
untuned one is made. Two parts:

    load   N requests for whole debates at `society serve`, so many at a time, by a client in this
           process; then the same prompts at one bare model, without debates, adapters or HTTP, as
           many in flight. Prints latencies, calls per second and their ratio.
    fast   N held-out sums, asked of `society` and of `society:fast` with the same noise: accuracy
           of both, the paired difference with its 95 % interval, and the calls that were saved.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any

import httpx2

from evals import stored_run, tasks
from evals.intervals import format_points, paired_right
from evals.tasks.base import Task, TaskQuestion
from providers import registry
from providers.base import Provider
from providers.types import Message, Request, Sampling
from society.config.schema import Config
from store.ledger import Store

_KEPT = "benchmark-served"
_UNTUNED = """
model = "embedded:"
iterations = 0
[task]
name = "arithmetic"
[sampling]
temperature = 0.6
top_p = 1.0
max_tokens = 112
summary_max_tokens = 96
[evaluation]
questions = 1
decodings = ["sampled"]
[train]
questions = 2
"""


@dataclass(frozen=True, slots=True)
class Reply:
    """One request's choice, and the seconds that it took."""

    seconds: float
    consensus: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Block:
    """Some requests, and the seconds that the society and the bare model took for them."""

    replies: list[Reply]
    served_s: float
    bare_s: float


def main() -> None:
    """Hold both parts, or the one that is named."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--concurrent", type=int, default=64)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--part", choices=("load", "fast"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="society-serve-") as folder:
        run = options.run or make_run(Path(folder))
        with Store.open(run / "run.duckdb", read_only=True) as store:
            config = Config.from_json(stored_run.load_run(store).config)
        task = tasks.load_task(config.task.name, config.task.options)
        if options.part != "fast":
            measure_load(run, config, task, options.requests, options.concurrent)
        if options.part != "load":
            compare_fast(run, task, options.questions, options.concurrent)


def make_run(folder: Path) -> Path:
    """An untuned run of the built-in model."""
    (folder / "untuned.toml").write_text(_UNTUNED)
    command = [sys.executable, "-m", "society", "run", "untuned.toml"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "runs" / "untuned"


@contextmanager
def serve(run: Path, *options: str) -> Iterator[str]:
    """`society serve` in a process of its own; gives its base URL."""
    command = [sys.executable, "-u", "-m", "society", "serve", run.name, "--port", "0"]
    process = subprocess.Popen(
        [*command, "--runs", str(run.parent), *options], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        if found is None:
            raise SystemExit("society serve did not start; its message stands above")
        yield found.group()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


async def ask_all(
    url: str, model: str, questions: Sequence[TaskQuestion], concurrent: int
) -> list[Reply]:
    """Ask every question once, so many at a time. Raises for any status but 200."""
    places = asyncio.Semaphore(concurrent)
    limits = httpx2.Limits(max_connections=concurrent)

    async with httpx2.AsyncClient(timeout=600, limits=limits) as client:

        async def ask(question: TaskQuestion) -> Reply:
            body = {
                "model": model,
                "messages": [{"role": "user", "content": question.text}],
                "seed": 1,
                "include_reasoning": False,
            }
            async with places:
                started = time.perf_counter()
                answer = await client.post(f"{url}/chat/completions", json=body)
                answer.raise_for_status()
                seconds = time.perf_counter() - started
            return Reply(seconds, answer.json()["choices"][0]["consensus"])

        return list(await asyncio.gather(*map(ask, questions)))


def measure_load(run: Path, config: Config, task: Task, requests: int, concurrent: int) -> None:
    """Print what whole debates take under load, beside one bare model with the same prompts.

    The two take turns, a block of requests each, so that a busy machine slows both alike.
    """
    questions = task.questions("eval", 0, requests)
    kept = run.parent / _KEPT
    shutil.rmtree(kept, ignore_errors=True)
    try:
        with serve(run, "--store", _KEPT, "--concurrent", str(concurrent)) as url:
            blocks = asyncio.run(alternate(url, kept / "run.duckdb", config, questions, concurrent))
    finally:
        shutil.rmtree(kept, ignore_errors=True)
    replies = [reply for block in blocks for reply in block.replies]
    served_s, bare_s = sum(b.served_s for b in blocks), sum(b.bare_s for b in blocks)
    calls = sum(reply.consensus["calls"] for reply in replies)
    times = quantiles((reply.seconds for reply in replies), n=100)
    print(f"{len(replies)} of {requests} requests answered, {concurrent} at a time, {calls} calls")
    print(
        f"  society: {served_s:.1f} s, {len(replies) / served_s:.1f} requests/s, "
        f"{calls / served_s:.0f} calls/s; latency median {times[49]:.2f} s, 95 % {times[94]:.2f} s"
    )
    bare = f"{bare_s:.1f} s, {calls / bare_s:.0f} calls/s"
    print(f"  one bare model, the same prompts, no HTTP: {bare}; ratio {served_s / bare_s:.2f}")


async def alternate(
    url: str, database: Path, config: Config, questions: Sequence[TaskQuestion], concurrent: int
) -> list[Block]:
    """Ask the society a block of questions, then the bare model the prompts of its debates."""
    size = 2 * concurrent
    provider = registry.connect(config.model, config.settings_of(config.model), Path("models"))
    blocks, seen = [], 0
    try:
        # Loads the weights, as the server has done when it says its address.
        await ask_bare(provider, config, [((Message("user", "1+1"),), 1)], 1)
        for start in range(0, len(questions), size):
            began = time.perf_counter()
            replies = await ask_all(url, "society", questions[start : start + size], concurrent)
            served_s = time.perf_counter() - began
            prompts = await asyncio.to_thread(read_prompts, database, seen)
            seen += len(prompts)
            began = time.perf_counter()
            await ask_bare(provider, config, prompts, concurrent * config.society.agents)
            blocks.append(Block(replies, served_s, time.perf_counter() - began))
    finally:
        await provider.close()
    return blocks


def read_prompts(database: Path, seen: int) -> list[tuple[tuple[Message, ...], int]]:
    """The conversations of the turns after the first `seen`, and how long each answer was."""
    sql = "SELECT messages, completion_tokens FROM turns ORDER BY created_at OFFSET ?"
    with Store.open(database, read_only=True) as store:
        rows = store.rows(sql, [seen])
    return [(tuple(Message(**m) for m in json.loads(text)), tokens) for text, tokens in rows]


async def ask_bare(
    provider: Provider,
    config: Config,
    prompts: Sequence[tuple[tuple[Message, ...], int]],
    in_flight: int,
) -> None:
    """Ask the untuned base all prompts, so many in flight.

    An answer may be as long as the society's own was, so that both write about as many tokens.
    """
    places = asyncio.Semaphore(in_flight)

    async def ask(number: int) -> None:
        messages, tokens = prompts[number]
        sampling = Sampling(config.sampling.temperature, config.sampling.top_p, max(1, tokens))
        async with places:
            await provider.complete(Request(provider.base, messages, sampling, f"bare/{number}"))

    await asyncio.gather(*map(ask, range(len(prompts))))


def compare_fast(run: Path, task: Task, count: int, concurrent: int) -> None:
    """Print the accuracy of `society:fast` beside the whole debate's, and the calls it saves."""
    questions = task.questions("eval", 0, count)
    with serve(run, "--concurrent", str(concurrent)) as url:
        replies = {
            model: asyncio.run(ask_all(url, model, questions, concurrent))
            for model in ("society", "society:fast", "society:round1")
        }
    right = {
        model: [is_right(task, q, r) for q, r in zip(questions, found, strict=True)]
        for model, found in replies.items()
    }
    calls = {model: sum(r.consensus["calls"] for r in found) for model, found in replies.items()}
    for model, found in right.items():
        print(f"{model:15} {100 * sum(found) / count:.1f} % of {count}, {calls[model]} calls")
    change = paired_right(right["society"], right["society:fast"])
    saved = 1 - calls["society:fast"] / calls["society"]
    print(
        f"fast minus whole: {format_points(change.difference)} points "
        f"({format_points(change.low)} to {format_points(change.high)}); "
        f"{calls['society'] - calls['society:fast']} calls saved, {100 * saved:.1f} %"
    )


def is_right(task: Task, question: TaskQuestion, reply: Reply) -> bool:
    """Whether the consensus is the gold answer."""
    answer = reply.consensus["answer"]
    return answer is not None and task.equivalent(answer, str(question.gold))


if __name__ == "__main__":
    main()
