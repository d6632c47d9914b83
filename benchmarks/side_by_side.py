"""Six adapters trained side by side beside six in turn, on a real server of Tinker's wire.

    SOCIETY_TEST_SERVERS=FOLDER python benchmarks/side_by_side.py [--steps N] [--rounds N]

The server is SkyRL on this machine with the built-in model, as `make test-servers` installs it.
Without it, this says why and measures nothing. The jobs are those of the provider `tinker:`, with
everything that it does for a step: its journal, both requests, the loss that came back. In turn, a
job begins when the one before has ended. Only the steps are timed, not the adapters' creation, the
compilation and what is saved. The two ways take turns, and the medians are compared.

On a processor a pass costs as much as its rows do, whoever they belong to, so that what is saved is
the waiting between two steps of one adapter; on an accelerator the shared base is saved too.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from providers import registry
from providers.base import Provider
from providers.hyperparameters import Hyperparameters
from providers.types import Example, FinetuneSpec, JobHandle, Message, ModelRef
from tests.servers.environments import NotInstalled, find_environment
from tests.servers.recipes import BASE, SKYRL, SKYRL_RANK, start_skyrl
from tests.servers.running import running

ADAPTERS = 6
BATCH = 2
WARM = 3
"""Steps of every job before its time is taken."""
GOAL = 0.5
SETTINGS = {"loss_reduction": "mean", "save_every": 10_000, "poll_s": 0.05}


def main() -> int:
    """Print seconds per step and their ratio; 1 where the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=20, help="timed steps of every job")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    try:
        # One size of pass, since every other one is compiled anew for half a minute.
        recipe = replace(SKYRL, command=partial(start_skyrl, batch=BATCH))
        environment = replace(find_environment(SKYRL), recipe=recipe)
    except NotInstalled as reason:
        print(f"nothing measured: {reason}")
        return 0
    os.environ["TINKER_TELEMETRY"] = "0"
    os.environ.setdefault("TINKER_API_KEY", "tml-of-benchmarks")
    folder = Path(tempfile.mkdtemp(prefix="side-by-side-"))
    together, apart = [], []
    with running(environment, folder) as server:
        asyncio.run(train(server.url, folder / "warm", ADAPTERS, 1))
        for number in range(options.rounds):
            for taken, size in ((together, ADAPTERS), (apart, 1)):
                place = folder / f"round-{number}-{size}"
                taken.append(asyncio.run(train(server.url, place, size, options.steps)))
                print(f"{size} at a time: {taken[-1]:.2f} s a step of all {ADAPTERS}", flush=True)
    ratio = statistics.median(together) / statistics.median(apart)
    print(f"side by side / in turn: {ratio:.2f} (goal: at most {GOAL})")
    return int(ratio > GOAL)


async def train(url: str, folder: Path, size: int, steps: int) -> float:
    """Train all adapters, `size` at a time: the seconds of one step of each of them."""
    provider = registry.connect(f"tinker+{url}:{BASE}", SETTINGS, folder)
    try:
        specs = [build_spec(number, provider.base, steps) for number in range(ADAPTERS)]
        groups = [specs[first : first + size] for first in range(0, ADAPTERS, size)]
        return sum([await time_group(provider, group, steps) for group in groups])
    finally:
        await provider.close()


async def time_group(provider: Provider, specs: list[FinetuneSpec], steps: int) -> float:
    """Train some adapters to their ends; the seconds of one step of each."""
    handles = [await provider.submit(spec) for spec in specs]
    started = await wait_for_step(provider, handles, WARM)
    ended = await wait_for_step(provider, handles, WARM + steps)
    for handle in handles:
        await wait_for_end(provider, handle)
    return (ended - started) / steps


async def wait_for_end(provider: Provider, handle: JobHandle) -> None:
    """Wait until a job is done, so that the next group's steps are not disturbed."""
    while True:
        if (await provider.poll(handle)).model is not None:
            return
        await asyncio.sleep(SETTINGS["poll_s"])


async def wait_for_step(provider: Provider, handles: list[JobHandle], step: int) -> float:
    """The time at which the last of the jobs has done a step."""
    while True:
        states = [await provider.poll(handle) for handle in handles]
        for state in states:
            if state.error:
                raise RuntimeError(state.error)
        if all(len(state.points) >= step for state in states):
            return time.perf_counter()
        await asyncio.sleep(0.01)


def build_spec(number: int, base: ModelRef, steps: int) -> FinetuneSpec:
    """The training of one adapter: `steps` timed ones after those before, and one to spare."""
    examples = []
    for place in range((WARM + steps + 1) * BATCH):
        first, second = 11 + (place + 5 * number) % 30, 10 + place % 60
        asked = Message("user", f"What is {first}+{second}?")
        answered = Message("assistant", f"It is \\boxed{{{first + second}}}.")
        examples.append(Example((asked, answered), (1,)))
    how = Hyperparameters(
        epochs=1,
        learning_rate=1e-3,
        batch_size=BATCH,
        lora_rank=SKYRL_RANK,
        lora_alpha=32,
        max_grad_norm=0.0,
    )
    return FinetuneSpec(f"adapter-{number}", base, examples, f"{number:064d}", how, seed=number)


if __name__ == "__main__":
    sys.exit(main())
