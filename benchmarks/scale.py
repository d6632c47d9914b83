"""What one iteration costs from 1 to 64 GPUs, and what the process that drives them does.

    python benchmarks/scale.py [--simulate QUESTIONS] [--replicas N] [--speed FACTOR]

Without options it prints the tables of docs/scale.md, from the constants below, which have their
sources there. With `--simulate` the real engine holds that many debates: prompts, votes, verdicts
and storage are the product's own, and the servers answer after the time that the model gives them,
FACTOR times faster. It prints the process's CPU time and memory for each call, and what of it is
storage (the difference from the same debates that are kept nowhere).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from evals.tasks.arithmetic import create
from evals.tasks.base import TaskQuestion
from providers.answer_server import AnswerServer
from providers.base import AdapterServer, Provider
from providers.replica import Replica
from providers.replicas import Replicas
from providers.scripted import ScriptedProvider
from providers.split import SplitProvider
from providers.types import (
    Capabilities,
    Completion,
    Finding,
    LoadedAdapter,
    Request,
    Sampling,
)
from society.method.agents import Society
from society.method.debate import Debate, DebateRules, Recorder
from store.ledger import Store
from store.records import StageKey
from store.tables import Record


@dataclass(frozen=True, slots=True)
class Serving:
    """A server of one model on `gpus` H100 80 GB, in bfloat16 with LoRA adapters.

    `prefill` and `decode` are tokens/s at full load, `weights_gb` and `kv_kb` (for each token) what
    it keeps in memory, `adapter_mb` one adapter of rank 16 on all linear layers, `train` the tokens
    that one GPU trains on in a second.
    """

    name: str
    gpus: int
    prefill: float
    decode: float
    weights_gb: float
    kv_kb: float
    adapter_mb: float
    train: float

    def count_servers(self, gpus: int) -> int:
        return gpus // self.gpus

    def answer_s(self, prompt: int, answer: int) -> float:
        """Seconds of one server that a call takes at full load."""
        return prompt / self.prefill + answer / self.decode

    @property
    def shortest_step_s(self) -> float:
        """Seconds to read all weights once, for one more token of every call on its way."""
        return self.weights_gb / (self.gpus * _BANDWIDTH_GB_S)


_BANDWIDTH_GB_S = 3350.0
_BF16, _LORA = 0.5, 0.66
MODELS = (
    Serving("8B", 1, 66_900 * _BF16 * _LORA, 19_700 * _BF16 * _LORA, 16.1, 128, 84, 12_473),
    # On four GPUs, since its weights fill two; the figures of two, doubled.
    Serving("70B", 4, 27_900 * _BF16 * _LORA, 12_000 * _BF16 * _LORA, 141.2, 320, 414, 1_092),
)
AGENTS, ROUNDS, EPOCHS = 3, 2, 2
PROMPT, ANSWER, ASIDE = 200, 400, 60
CALLS = AGENTS * ROUNDS
PROMPTS = (PROMPT, PROMPT + ANSWER + (AGENTS - 1) * ANSWER + ASIDE)
"""Tokens of the prompts of both rounds: the second has the agent's own answer and the others'."""

# Measured by this script and by benchmarks/calls.py; see docs/scale.md.
HTTP_MS, ENGINE_MS, DISK_BYTES, WIRE_BYTES_PER_TOKEN = 0.84, 0.96, 3_700, 4.5
GPUS, QUESTIONS = (1, 4, 8, 16, 32, 64), (1_000, 10_000, 100_000, 1_000_000)


@dataclass(frozen=True, slots=True)
class Cost:
    """One iteration: `questions` are debated once, then 2 x AGENTS adapters are trained."""

    model: Serving
    gpus: int
    questions: int

    @property
    def calls(self) -> int:
        return CALLS * self.questions

    @property
    def prompt_tokens(self) -> int:
        return AGENTS * sum(PROMPTS) * self.questions

    @property
    def answer_tokens(self) -> int:
        return self.calls * ANSWER

    @property
    def trained_tokens(self) -> int:
        """At most: all answers of the first round, all conversations that ended in the second."""
        return AGENTS * EPOCHS * sum(prompt + ANSWER for prompt in PROMPTS) * self.questions

    @property
    def servers_s(self) -> float:
        """Seconds that the servers need, all at work."""
        each = sum(self.model.answer_s(prompt, ANSWER) for prompt in PROMPTS)
        return AGENTS * each * self.questions / self.model.count_servers(self.gpus)

    @property
    def driver_s(self) -> float:
        """Seconds of one core that the run's own process needs meanwhile."""
        return self.calls * (HTTP_MS + ENGINE_MS) / 1e3

    @property
    def training_s(self) -> float:
        # No more jobs than adapters can run at once, each on the GPUs of one server.
        at_work = min(self.gpus, 2 * AGENTS * self.model.gpus)
        return self.trained_tokens / (self.model.train * at_work)

    @property
    def seconds(self) -> float:
        return max(self.servers_s, self.driver_s) + self.training_s

    @property
    def wire_mb_s(self) -> float:
        """Megabytes a second between driver and servers while they answer."""
        tokens = self.prompt_tokens + self.answer_tokens
        return tokens * WIRE_BYTES_PER_TOKEN / max(self.servers_s, self.driver_s) / 1e6

    @property
    def disk_gb(self) -> float:
        adapters = 2 * AGENTS * self.model.adapter_mb / 1e3
        return self.calls * DISK_BYTES / 1e9 + adapters


def main() -> int:
    """Print the tables, or one simulation."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--simulate", type=int, metavar="QUESTIONS")
    parser.add_argument("--replicas", type=int, default=64)
    parser.add_argument("--speed", type=float, default=20.0)
    options = parser.parse_args()
    if options.simulate:
        simulate(options.simulate, options.replicas, options.speed)
        return 0
    for model in MODELS:
        print_iterations(model)
    print_memory()
    return 0


def print_iterations(model: Serving) -> None:
    print(f"\n{model.name}, {model.gpus} GPU(s) to a server\n")
    print("| questions | GPUs | answering | driver | training | whole | bound by | MB/s | disk |")
    print("|---|---|---|---|---|---|---|---|---|")
    for questions in QUESTIONS:
        for gpus in (count for count in GPUS if count >= model.gpus):
            cost = Cost(model, gpus, questions)
            bound = "driver" if cost.driver_s > cost.servers_s else "GPUs"
            print(
                f"| {questions:,} | {gpus} | {_time(cost.servers_s)} | {_time(cost.driver_s)} "
                f"| {_time(cost.training_s)} | {_time(cost.seconds)} | {bound} "
                f"| {cost.wire_mb_s:.1f} | {cost.disk_gb:.1f} GB |"
            )


def print_memory() -> None:
    """What a server keeps on its GPUs, and how many of them one process can feed."""
    print("\n| model | GPUs | weights | adapters (2N) | left for tokens | calls | servers |")
    print("|---|---|---|---|---|---|---|")
    for model in MODELS:
        adapters = 2 * AGENTS * model.adapter_mb / 1e3
        left = 0.9 * 80 * model.gpus - model.weights_gb - adapters
        tokens = left * 1e6 / model.kv_kb
        one = Cost(model, model.gpus, 1)
        print(
            f"| {model.name} | {model.gpus} | {model.weights_gb:.0f} GB | {adapters:.1f} GB "
            f"| {left:.0f} GB = {tokens:,.0f} tokens | {tokens / (PROMPTS[-1] + ANSWER):,.0f} "
            f"| {one.servers_s / one.driver_s:.0f} |"
        )


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class SimulatedServer(ScriptedProvider):
    """Answers after the time that a server of `model` would take beside the calls it has."""

    def __init__(self, model: Serving, speed: float) -> None:
        super().__init__(lambda request: "")
        self._model, self._speed = model, speed
        self._calls = self.most = 0

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(adapter_server=True)

    async def complete(self, request: Request) -> Completion:
        self._calls += 1
        self.most = max(self.most, self._calls)
        step_s = self._model.shortest_step_s + self._calls / self._model.decode
        prompt = PROMPTS[0] if len(request.messages) == 1 else PROMPTS[1]
        try:
            await asyncio.sleep((prompt / self._model.prefill + ANSWER * step_s) / self._speed)
        finally:
            self._calls -= 1
        return Completion(_ANSWER, "stop", prompt, ANSWER, 1.0)


_ANSWER = "Multiply first, then add what is left, one step after the other. " * 25 + "\\boxed{7}"


class _NoAdapters(AdapterServer):
    async def list_loaded(self) -> Sequence[LoadedAdapter]:
        return []

    async def load(self, name: str, path: str) -> None:
        return

    async def unload(self, name: str) -> None:
        return

    def model_name(self, name: str) -> str:
        return name

    async def preflight(self) -> Sequence[Finding]:
        return []

    async def close(self) -> None:
        return


class _Nowhere(Recorder):
    async def append(self, *rows: Record) -> None:
        await asyncio.sleep(0)


def simulate(questions: int, replicas: int, speed: float) -> None:
    """Hold debates with storage and without, and print what they took."""
    model = MODELS[0]
    print(f"{questions:,} questions, {AGENTS} agents, {ROUNDS} rounds, {replicas} servers of 8B")
    # The first one warms up imports and allocators.
    _hold(model, min(200, questions), replicas, speed, _Nowhere())
    bare = _hold(model, questions, replicas, speed, _Nowhere())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.duckdb"
        with Store.open(path) as store:
            stored = _hold(model, questions, replicas, speed, store)
        size = path.stat().st_size
    calls = CALLS * questions
    print(f"  CPU {stored.cpu_s / calls * 1e3:.2f} ms a call, {calls / stored.wall_s:,.0f} calls/s")
    print(f"  of it storage {(stored.cpu_s - bare.cpu_s) / calls * 1e3:.2f} ms")
    print(f"  memory {stored.peak_mb:,.0f} MB, {stored.grown_mb * 1e3 / calls:.2f} KB a call more")
    print(f"  {stored.in_flight_kb:.0f} KB for each call on its way")
    print(f"  disk {size / calls:,.0f} bytes a call")
    least, most = min(stored.most), max(stored.most)
    print(f"  calls at once on a server: {least} on the least used, {most} on the most used")


@dataclass(frozen=True, slots=True)
class Held:
    """What debates took."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    grown_mb: float
    in_flight_kb: float
    most: list[int]


def _hold(model: Serving, questions: int, replicas: int, speed: float, keep: Recorder) -> Held:
    servers = [SimulatedServer(model, speed) for _ in range(replicas)]
    gc.collect()
    before = _resident_mb()
    wall, cpu = time.perf_counter(), time.process_time()
    early = asyncio.run(_debate(servers, questions, keep))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    gc.collect()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    most = [server.most for server in servers]
    in_flight_kb = 1e3 * (early - before) / max(1, sum(most))
    return Held(wall, cpu, peak, _resident_mb() - before, in_flight_kb, most)


async def _debate(servers: Sequence[SimulatedServer], questions: int, keep: Recorder) -> float:
    """Hold the debates; returns the memory once all first calls are on their way."""
    split = _connect(servers)
    sampling = Sampling(max_tokens=512)
    in_flight = max(1024, 128 * len(servers))
    rules = DebateRules(
        ROUNDS, "quoted", sampling, sampling, drop_ties=True, questions_in_flight=in_flight
    )
    society = Society.from_bases([split.base] * AGENTS, split.base)
    stage = StageKey(1, "train", "multiagent", "sampled")
    debate = Debate(society, create({}), {split.base.address: split}, keep, stage, rules)
    early = 0.0
    async for _ in debate.run(list(_ask(questions))):
        early = early or _resident_mb()
    await split.close()
    return early


def _connect(servers: Sequence[Provider]) -> SplitProvider:
    workdir = Path()
    replicas = [
        Replica(AnswerServer(f"scripted:{number}"), server, _NoAdapters(), workdir)
        for number, server in enumerate(servers)
    ]
    trainer = ScriptedProvider(lambda request: "")
    return SplitProvider(trainer, Replicas(replicas, patience_s=600.0), workdir)


def _ask(questions: int) -> Iterator[TaskQuestion]:
    # The task itself has no 10^5 different sums; the texts are as long as those of MATH.
    words = "Find the value of the expression below, and explain each of your steps to the reader. "
    for number in range(questions):
        yield TaskQuestion(f"q{number}", f"{words * 9}What is {number} + 7?", "7")


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    raise SystemExit(main())
