"""What a call through the OpenAI provider costs, beside the openai package alone.

    python benchmarks/calls.py [--calls N] [--concurrent N] [--latency-ms MS] [--only PART]

All against a local server in a process of its own, which answers after 200 ms.
(1) CPU per call and calls per second of the provider with its answers stored in DuckDB, of a bare
loop over the openai package on aiohttp and on its own transport, and of aiohttp alone.
(2) Memory of debates when the number of questions grows tenfold.
(3) A hundred answers that take 100 times the median among ten thousand.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
from openai import AsyncOpenAI, DefaultAioHttpClient

from evals.tasks.arithmetic import create
from providers import registry
from providers.base import Provider
from providers.types import Message, Request, Sampling
from society.method.agents import Society
from society.method.debate import Debate, DebateRules
from store.content import messages_json
from store.ledger import Store
from store.records import StageKey, Turn

SERVER = Path(__file__).parents[1] / "tests" / "providers" / "chat_server.py"
MODEL = "bench-model"
TEXT = "Question: what is {number} + 7 * 3 - 2? Think step by step, answer in a box. " * 8
WARM_UP = 8
CPU_GOAL = 1.0
RATE_GOAL = 0.95
MEMORY_GOAL = 1.25
SLOW_GOAL = 1.15
PARTS = ("calls", "memory", "slow")

Call = Callable[[int], Awaitable[object]]


def main() -> int:
    """Print the measurements; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--concurrent", type=int, default=256)
    parser.add_argument("--latency-ms", type=float, default=200.0)
    parser.add_argument("--only", choices=PARTS)
    options = parser.parse_args()
    good = True
    if options.only in (None, "calls"):
        good &= measure_calls(options.calls, options.concurrent, options.latency_ms)
    if options.only in (None, "memory"):
        good &= measure_memory()
    if options.only in (None, "slow"):
        good &= measure_slow_answers()
    return 0 if good else 1


def measure_calls(calls: int, concurrent: int, latency_ms: float) -> bool:
    """The same requests through four clients."""
    print(f"calls: {calls:,} at {concurrent} concurrent, {latency_ms:.0f} ms each")
    with _server("--latency-ms", str(latency_ms)) as url, tempfile.TemporaryDirectory() as folder:
        default = asyncio.run(_openai(url, max(concurrent, calls // 8), concurrent, aio=False))
        ceiling = asyncio.run(_aiohttp(url, calls, concurrent))
        bare = asyncio.run(_openai(url, calls, concurrent, aio=True))
        with Store.open(Path(folder) / "calls.duckdb") as store:
            ours = asyncio.run(_provider(url, calls, concurrent, store))
            stored = store.rows("SELECT count(*) FROM turns")[0][0]
        assert stored == calls + WARM_UP
    _line("aiohttp alone (the ceiling)", ceiling)
    _line("openai on its own transport", default)
    _line("openai on aiohttp, bare loop", bare)
    _line("provider, turns stored", ours)
    cpu, rate = ours.cpu_ms / bare.cpu_ms, ours.rate / bare.rate
    print(f"  beside the bare loop: CPU {cpu:.2f} x, goal {CPU_GOAL}; ", end="")
    print(f"calls/s {rate:.2f} x, goal {RATE_GOAL}\n")
    return cpu <= CPU_GOAL and rate >= RATE_GOAL


def measure_memory() -> bool:
    """Debates of 300 questions, then of ten times as many."""
    print("memory: debates of 3 agents and 1 round")
    peaks = []
    with _server("--latency-ms", "20") as url:
        for questions in (300, 300, 3000):
            with (
                tempfile.TemporaryDirectory() as folder,
                Store.open(Path(folder) / "run.duckdb") as store,
                _peak_memory() as peak,
            ):
                asyncio.run(_debates(url, store, questions, rounds=1))
            peaks.append(peak[0])
    # The first one warms up allocators and the database.
    _, few, many = peaks
    print(f"  300 questions {few:,.0f} MB, 3,000 questions {many:,.0f} MB")
    print(f"  ratio {many / few:.2f}, goal {MEMORY_GOAL}\n")
    return many / few <= MEMORY_GOAL


def measure_slow_answers() -> bool:
    """Wall time against the time that the slots need at least, whoever holds them when."""
    median_s, concurrent, calls, every = 0.05, 16, 10_000, 100
    print(f"slow answers: 1 of {every} takes {100 * median_s:.0f} s instead of {median_s} s")
    slow = ("--slow-every", str(every), "--slow-ms", str(100_000 * median_s))
    latencies: list[float] = []
    with _server("--latency-ms", str(1000 * median_s), *slow) as url:
        measured = asyncio.run(_plain_provider(url, calls, concurrent, latencies))
    bound = sum(latencies) / 1000 / concurrent
    ratio = measured.seconds / bound
    print(f"  {measured.seconds:.1f} s, lower bound {bound:.1f} s (all latencies / {concurrent})")
    print(f"  ratio {ratio:.2f}, goal {SLOW_GOAL}\n")
    return ratio <= SLOW_GOAL


class _Measured:
    """Wall seconds and this process's CPU seconds of `calls` calls."""

    def __init__(self, calls: int) -> None:
        self.calls = calls
        self.seconds = self._cpu = 0.0

    def __enter__(self) -> _Measured:
        self._wall_at, self._cpu_at = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._wall_at
        self._cpu = time.process_time() - self._cpu_at

    @property
    def rate(self) -> float:
        return self.calls / self.seconds

    @property
    def cpu_ms(self) -> float:
        return 1000 * self._cpu / self.calls


async def _aiohttp(url: str, calls: int, concurrent: int) -> _Measured:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=concurrent)) as session:

        async def call(number: int) -> None:
            body = {"model": MODEL, "messages": _messages(number), "max_tokens": 512}
            async with session.post(f"{url}/chat/completions", json=body) as response:
                await response.json()

        return await _loop(call, calls, concurrent)


async def _openai(url: str, calls: int, concurrent: int, *, aio: bool) -> _Measured:
    transport = DefaultAioHttpClient() if aio else None
    async with AsyncOpenAI(
        api_key="none", base_url=url, max_retries=0, timeout=600, http_client=transport
    ) as client:

        async def call(number: int) -> None:
            await client.chat.completions.create(
                model=MODEL,
                messages=_messages(number),  # type: ignore[arg-type]
                temperature=1.0,
                top_p=0.9,
                max_tokens=512,
                seed=number,
            )

        return await _loop(call, calls, concurrent)


async def _provider(url: str, calls: int, concurrent: int, store: Store) -> _Measured:
    provider = _connect(url, concurrent)

    async def call(number: int) -> None:
        request = _request(provider, number)
        completion = await provider.complete(request)
        written = messages_json([{"role": "user", "content": request.messages[0].content}])
        turn = Turn(
            iteration=1,
            split="train",
            arm="multiagent",
            decoding="sampled",
            question_id=f"q-{number}",
            agent=1,
            round=1,
            kind="answer",
            model_id=MODEL,
            messages=written,
            response=completion.text,
            answer="42",
            finish_reason=completion.finish_reason,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            latency_ms=completion.latency_ms,
        )
        await store.append(turn)

    try:
        # Debates keep more questions under way than there are slots.
        return await _loop(call, calls, 2 * concurrent)
    finally:
        await provider.close()


async def _plain_provider(
    url: str, calls: int, concurrent: int, latencies: list[float]
) -> _Measured:
    provider = _connect(url, concurrent)

    async def call(number: int) -> None:
        completion = await provider.complete(_request(provider, number))
        latencies.append(completion.latency_ms)

    try:
        return await _loop(call, calls, 4 * concurrent)
    finally:
        await provider.close()


async def _debates(url: str, store: Store, questions: int, *, rounds: int) -> None:
    task = create({})
    provider = _connect(url, 64)
    sampling = Sampling(max_tokens=512)
    rules = DebateRules(
        rounds, "quoted", sampling, sampling, drop_ties=True, questions_in_flight=100
    )
    debate = Debate(
        Society.from_bases([provider.base] * 3, provider.base),
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


async def _loop(call: Call, calls: int, concurrent: int) -> _Measured:
    """`calls` calls by `concurrent` workers; the first few are not measured."""
    await asyncio.gather(*(call(-1 - number) for number in range(WARM_UP)))
    numbers = iter(range(calls))

    async def worker() -> None:
        for number in numbers:
            await call(number)

    with _Measured(calls) as measured:
        await asyncio.gather(*(worker() for _ in range(concurrent)))
    return measured


def _connect(url: str, concurrent: int) -> Provider:
    settings = {"limits": {"max_concurrent": concurrent}}
    return registry.connect(f"openai+{url}:{MODEL}", settings, Path())


def _request(provider: Provider, number: int) -> Request:
    message = Message("user", TEXT.format(number=number))
    return Request(provider.base, (message,), Sampling(top_p=0.9), f"bench/{number}")


def _messages(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": TEXT.format(number=number)}]


@contextmanager
def _server(*arguments: str) -> Iterator[str]:
    """The URL of a chat server in a process of its own."""
    with subprocess.Popen(
        [sys.executable, str(SERVER), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.stdin.close()


@contextmanager
def _peak_memory() -> Iterator[list[float]]:
    """Peak resident memory in MB meanwhile; the process's own peak where that is hidden."""
    peak = [0.0]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            peak[0] = max(peak[0], _resident_mb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        stop.set()
        watcher.join()


def _resident_mb() -> float:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _line(name: str, measured: _Measured) -> None:
    print(f"  {name:<32} {measured.rate:>8,.0f} calls/s   {measured.cpu_ms:.2f} ms CPU per call")


if __name__ == "__main__":
    raise SystemExit(main())
