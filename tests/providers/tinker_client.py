"""A provider at the stand-in of Tinker's wire, and a small job for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from providers import registry
from providers.base import Provider
from providers.embedded import MODEL_DIR
from providers.types import (
    Example,
    FinetuneSpec,
    Hyperparameters,
    JobState,
    Message,
    ModelRef,
    Request,
    Sampling,
)

QUESTION = (Message("user", "What is 2+3?"),)
RECIPE = Hyperparameters(epochs=2, batch_size=2, lora_rank=4, learning_rate=1e-3, max_grad_norm=0.0)
EXAMPLES = [
    Example(
        (Message("user", f"What is {n}+3?"), Message("assistant", f"The answer is {n + 3}.")),
        (1,),
        weight=0.5 if n % 3 else 2.0,
    )
    for n in range(6)
]
STEPS = 6


def connect(server: Any, workdir: Path, **settings: object) -> Provider:
    """A new connection, as a process has that was started just now."""
    given = {"tokenizer": str(MODEL_DIR), "loss_reduction": "mean", "save_every": 2}
    return registry.connect(address(server), {**given, **settings}, workdir)


@asynccontextmanager
async def connected(server: Any, workdir: Path, **settings: object) -> AsyncIterator[Provider]:
    """A connection for the length of the block."""
    provider = connect(server, workdir, **settings)
    try:
        yield provider
    finally:
        await provider.close()


def address(server: Any) -> str:
    return f"tinker+{server.url}:embedded"


def make_spec(server: Any, name: str = "run-a1", **changes: Any) -> FinetuneSpec:
    base = ModelRef(address(server), address(server))
    return replace(FinetuneSpec(name, base, EXAMPLES, "0" * 64, RECIPE, seed=3), **changes)


def ask(model: ModelRef, key: str = "k", **sampling: Any) -> Request:
    how = Sampling(**{"max_tokens": 24, "temperature": 0.0, **sampling})
    return Request(model, QUESTION, how, key)


async def train(provider: Provider, spec: FinetuneSpec) -> JobState:
    """The state in which a job ends."""
    return await follow(provider, await provider.submit(spec))


async def follow(provider: Provider, handle: Any, points: int | None = None) -> JobState:
    """The state in which a job ends, or in which it has so many points."""
    while True:
        state = await provider.poll(handle)
        if state.done or (points is not None and len(state.points) >= points):
            return state
        await asyncio.sleep(0.005)


def find_saved(server: Any, state: JobState) -> dict[str, Any]:
    """What the server has saved for a job's model: its history of steps and its hash."""
    assert state.model is not None
    found: dict[str, Any] = server.state()["saved"][state.model.artifact]
    return found
