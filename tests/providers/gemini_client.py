"""What the tests of Gemini share: a provider at the stand-in, requests and specs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from providers import registry
from providers.base import Provider
from providers.types import (
    Example,
    FinetuneSpec,
    Hyperparameters,
    JobHandle,
    JobState,
    Message,
    ModelRef,
    Request,
    Sampling,
)
from tests.providers.gemini_server import MODEL, Google

ADDRESS = f"gemini:{MODEL}"
BASE = ModelRef(ADDRESS, ADDRESS)
SPEC = FinetuneSpec(
    name="run-multiagent-a1-generator-it1-0123abcd",
    start=BASE,
    examples=[
        Example((Message("user", f"Wie viel ist {n}²?"), Message("assistant", str(n * n))), (1,))
        for n in range(16)
    ],
    dataset_sha256="0123abcd",
    hyperparameters=Hyperparameters(),
    metadata={"run": "Run 1", "agent": "1", "role": "generator"},
)


@asynccontextmanager
async def provider(google: Google, **settings: object) -> AsyncIterator[Provider]:
    """The provider as a process that has just started opens it."""
    opened = registry.connect(ADDRESS, {**google.settings, **settings}, Path())
    try:
        yield opened
    finally:
        await opened.close()


def ask(*messages: Message, model: ModelRef = BASE, key: str = "k", **sampling: object) -> Request:
    """A request, by default for 1+1."""
    chosen = messages or (Message("user", "What is 1+1?"),)
    return Request(model, chosen, Sampling(max_tokens=64, **sampling), key)


def spec(**changes: object) -> FinetuneSpec:
    """`SPEC` with changes."""
    return replace(SPEC, **changes)


async def follow(opened: Provider, handle: JobHandle) -> JobState:
    """The last state of a job."""
    while True:
        state = await opened.poll(handle)
        if state.done:
            return state
        await asyncio.sleep(0.01)
