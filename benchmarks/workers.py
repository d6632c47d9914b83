"""Training side by side: jobs per hour of two workers against one after another.

Jobs of the built-in model, six of them, LoRA rank 16 on all linear layers, by `providers.connect`
as a run does it, none joined to another (benchmarks/joint.py measures that). Measured three times,
in turn: one job at a time with one thread, one at a time with two threads, two at a time with one
thread each. Jobs per hour are those while every lane has work; the start of a worker shows in the
seconds from the first submission to the last end. The weights of all jobs with one thread must be
the same, bit for bit. The goal is 1.7 times one worker with one thread; it needs two idle cores,
and prints how idle they were before.

$BENCH_JOBS (6), $BENCH_EXAMPLES (192) and $BENCH_ROUNDS (2, the best counts) say how much is done.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from providers import registry
from providers.base import Provider
from providers.embedded.conversations import build_question_prompt
from providers.embedded.corpus import draw_problem
from providers.types import Example, FinetuneSpec, Hyperparameters, JobHandle, Message

JOBS = int(os.environ.get("BENCH_JOBS", "6"))
EXAMPLES = int(os.environ.get("BENCH_EXAMPLES", "192"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "2"))
GOAL = 1.7
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Pace:
    """Jobs per hour while all lanes worked, the seconds of everything, and the jobs' hashes."""

    jobs_per_hour: float
    seconds: float
    hashes: tuple[str, ...]


def make_specs(provider: Provider) -> list[FinetuneSpec]:
    """Questions of the built-in model's own kind, each with a wordy answer."""
    import random

    rng = random.Random("workers")
    problems = [draw_problem(rng) for _ in range(EXAMPLES)]
    examples = [
        Example(
            (
                Message("user", build_question_prompt(problem)),
                Message(
                    "assistant", f"Step by step, the result of {problem.expression} is found. " * 3
                ),
            ),
            loss_on=(1,),
        )
        for problem in problems
    ]
    how = Hyperparameters(epochs=1, batch_size=16, learning_rate=1e-3)
    return [
        FinetuneSpec(f"job-{n}", provider.base, examples, "0" * 64, how, seed=n)
        for n in range(JOBS)
    ]


async def measure(workers: int, threads: int) -> Pace:
    """All jobs with so many workers of so many threads each."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"training_workers": workers, "threads": threads, "joint_training": "off"}
        provider = registry.connect("embedded:", settings, Path(folder))
        specs = make_specs(provider)
        started = time.perf_counter()
        handles = [await provider.submit(spec) for spec in specs]
        jobs_per_hour, hashes = await _watch(provider, handles, workers)
        seconds = time.perf_counter() - started
        await provider.close()
    return Pace(jobs_per_hour, seconds, hashes)


async def _watch(
    provider: Provider, handles: Sequence[JobHandle], workers: int
) -> tuple[float, tuple[str, ...]]:
    """Jobs per hour from when all lanes are at work until no job waits, and the hashes at last."""
    first: tuple[float, float] | None = None
    last = (0.0, 0.0)
    while True:
        states = [await provider.poll(handle) for handle in handles]
        now = time.perf_counter(), sum(state.progress for state in states)
        # A job's first steps also pay for what is prepared once.
        running = [state for state in states if state.status == "running" and state.points]
        if first is None and len(running) == workers:
            first = now
        if len(running) == workers:
            last = now
        if all(state.done for state in states):
            break
        await asyncio.sleep(POLL_S)
    if failed := [state.error for state in states if state.status != "succeeded"]:
        raise SystemExit(f"a job failed: {failed[0]}")
    if first is None or last[0] <= first[0]:
        raise SystemExit("the jobs were too short to be measured; set BENCH_EXAMPLES higher")
    pace = (last[1] - first[1]) / (last[0] - first[0]) * 3600
    return pace, tuple(str(state.artifact_sha256) for state in states)


def main() -> int:
    busy = psutil.cpu_percent(interval=1.0)
    print(f"{psutil.cpu_count()} cores, {100 - busy:.0f} % idle before")
    best: dict[tuple[int, int], Pace] = {}
    for _ in range(ROUNDS):
        for case in ((1, 1), (1, 2), (2, 1)):
            pace = asyncio.run(measure(*case))
            if case not in best or pace.jobs_per_hour > best[case].jobs_per_hour:
                best[case] = pace
    for (workers, threads), pace in best.items():
        print(
            f"{workers} at a time, {threads} thread(s) each: {pace.jobs_per_hour:8.0f} jobs/h, "
            f"{pace.seconds:6.1f} s for {JOBS} jobs with the start"
        )
    one, two_threads, two = best[1, 1], best[1, 2], best[2, 1]
    same = one.hashes == two.hashes
    ratio = two.jobs_per_hour / one.jobs_per_hour
    print(f"weights {'equal' if same else 'DIFFERENT'} with one worker and two")
    other = two.jobs_per_hour / two_threads.jobs_per_hour
    print(f"two workers against one with two threads: {other:.2f}")
    print(f"two workers against one with one thread: {ratio:.2f} (goal {GOAL})")
    return 0 if same and ratio >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
