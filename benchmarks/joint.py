"""Six adapters trained in passes that they share, against one after the other, on one core.

Jobs of the built-in model, LoRA rank 16 on all linear layers, batches of 8 as in its experiments,
by `providers.connect` as a run does it: `joint_training = "off"` trains each job by PEFT's layers
in passes of its own, 6 trains all together, and 1 does so with one at a time, by the same products
as 6: what is left between these two is what the sharing itself saves. The process keeps to one
core. Measured in turn, from the first submission to the last end, and the best of each way counts:
in seconds of CPU, which other programs on the machine disturb less. All jobs differ in their data
and order. Losses of every step must be the same to 1e-4; weights of 6 and 1 must be the same, bit
for bit. The goal is 1.5 times "off" at each size.

$BENCH_JOBS (6), $BENCH_EXAMPLES (256), $BENCH_BATCHES ("8 2": examples of a step, 45 tokens each)
and $BENCH_ROUNDS (3) say how much is done.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

# Before numpy and torch are loaded: their threads are counted then.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import psutil

from providers import registry
from providers.base import Provider
from providers.embedded.conversations import build_question_prompt
from providers.embedded.corpus import draw_problem
from providers.types import Example, FinetuneSpec, Hyperparameters, Message

JOBS = int(os.environ.get("BENCH_JOBS", "6"))
EXAMPLES = int(os.environ.get("BENCH_EXAMPLES", "256"))
BATCHES = tuple(map(int, os.environ.get("BENCH_BATCHES", "8 2").split()))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
GOAL = 1.5
NEAR = 1e-4
POLL_S = 0.02
WAYS = ("off", JOBS, 1)


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds for all jobs, by the clock and of CPU, the losses of all steps, and the hashes."""

    seconds: float
    cpu_seconds: float
    losses: tuple[tuple[float, ...], ...]
    hashes: tuple[str, ...]


def make_spec(provider: Provider, number: int, batch: int) -> FinetuneSpec:
    """Questions of the built-in model's own kind, each with an answer in a sentence."""
    rng = random.Random(f"joint {number}")
    examples = []
    for _ in range(EXAMPLES):
        problem = draw_problem(rng)
        answer = f"Step by step, the result of {problem.expression} is found."
        messages = (
            Message("user", build_question_prompt(problem)),
            Message("assistant", answer),
        )
        examples.append(Example(messages, loss_on=(1,)))
    how = Hyperparameters(epochs=1, batch_size=batch, learning_rate=1e-3)
    return FinetuneSpec(
        f"job-{number}", provider.base, examples, f"{number}" * 64, how, seed=number
    )


async def measure(way: str | int, batch: int) -> Taken:
    """All jobs with this value of `joint_training`, one after the other or together."""
    settings = {"joint_training": way, "training_workers": 1, "threads": 1}
    with tempfile.TemporaryDirectory() as folder:
        provider = registry.connect("embedded:", settings, Path(folder))
        specs = [make_spec(provider, number, batch) for number in range(JOBS)]
        # The model is loaded once in a run.
        await provider.prepare_tuning(specs[0].hyperparameters)
        started, cpu_started = time.perf_counter(), time.process_time()
        handles = [await provider.submit(spec) for spec in specs]
        states = [await provider.poll(handle) for handle in handles]
        while not all(state.done for state in states):
            await asyncio.sleep(POLL_S)
            states = [await provider.poll(handle) for handle in handles]
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
        await provider.close()
    if failed := [state.error for state in states if state.status != "succeeded"]:
        raise SystemExit(f"a job failed: {failed[0]}")
    return Taken(
        seconds,
        cpu_seconds,
        tuple(tuple(point.loss for point in state.points) for state in states),
        tuple(str(state.artifact_sha256) for state in states),
    )


def compare(batch: int) -> bool:
    """Print the seconds of each way with steps of so many examples; whether all goals are met."""
    best: dict[str | int, Taken] = {}
    for _ in range(ROUNDS):
        for way in WAYS:
            taken = asyncio.run(measure(way, batch))
            if way not in best or taken.cpu_seconds < best[way].cpu_seconds:
                best[way] = taken
    print(f"{JOBS} jobs of {EXAMPLES} examples, {batch} in a step")
    for way, taken in best.items():
        steps = sum(map(len, taken.losses))
        print(
            f"  joint_training = {way!r:5}: {taken.cpu_seconds:6.2f} s of CPU, "
            f"{taken.seconds:.2f} s by the clock, {1e3 * taken.cpu_seconds / steps:5.1f} ms of CPU "
            "for a step with all that belongs to a job"
        )
    off, joint, one = (best[way] for way in WAYS)
    worst = max(
        abs(first - second)
        for mine, theirs in zip(off.losses, joint.losses, strict=True)
        for first, second in zip(mine, theirs, strict=True)
    )
    same = joint.hashes == one.hashes
    ratio = off.cpu_seconds / joint.cpu_seconds
    sharing = one.cpu_seconds / joint.cpu_seconds
    print(f"  losses differ by at most {worst:.1e} (goal {NEAR:.0e})")
    print(f"  weights {'equal' if same else 'DIFFERENT'} whoever shares the passes")
    print(f"  together against one at a time by the same products: {sharing:.2f}")
    print(f"  together against one after the other: {ratio:.2f} (goal {GOAL})", flush=True)
    return same and worst <= NEAR and ratio >= GOAL


def main() -> int:
    """Compare at each size; 1 where a goal is missed."""
    busy = psutil.cpu_percent(interval=1.0)
    if hasattr(os, "sched_setaffinity"):
        core = max(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {core})
        print(f"core {core} of {psutil.cpu_count()}; the machine was {100 - busy:.0f} % idle")
    met = [compare(batch) for batch in BATCHES]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
