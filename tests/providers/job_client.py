"""What the tests of files, jobs and batches share: a client on the job server, and specs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from openai import AsyncOpenAI, DefaultAioHttpClient

from providers.calling import Caller
from providers.limits.retry import RetryPolicy
from providers.openai.calling import make_caller
from providers.openai.files import FilePolling, Files
from providers.openai.jobs import FinetuningJobs
from providers.secrets import Secrets
from providers.types import (
    Example,
    FinetuneSpec,
    Hyperparameters,
    JobState,
    Message,
    ModelRef,
)
from tests.providers.job_account import BASE
from tests.providers.job_server import Server

KEY = "sk-test-0123456789abcdef"
ADDRESS = f"openai:{BASE}"
SPEC = FinetuneSpec(
    name="run-multiagent-a1-generator-it1-0123abcd",
    start=ModelRef(ADDRESS, ADDRESS),
    examples=[
        Example((Message("user", f"Wie viel ist {n}²?"), Message("assistant", str(n * n))), (1,))
        for n in range(12)
    ],
    dataset_sha256="0123abcd",
    hyperparameters=Hyperparameters(),
    metadata={"run": "run", "agent": "1", "role": "generator"},
)


async def briefly(seconds: float) -> None:
    """Wait, but not that long."""
    await asyncio.sleep(min(seconds, 0.01))


@asynccontextmanager
async def client(server: Server, timeout_s: float = 10.0) -> AsyncIterator[AsyncOpenAI]:
    """A client as the provider makes it: no retries of its own, aiohttp underneath."""
    async with AsyncOpenAI(
        api_key=KEY,
        base_url=server.url,
        max_retries=0,
        timeout=timeout_s,
        http_client=DefaultAioHttpClient(timeout=timeout_s),
    ) as opened:
        yield opened


def caller(attempts: int = 5) -> Caller:
    """A caller that waits for nobody."""
    return make_caller(Secrets({"key": KEY}), BASE, RetryPolicy(attempts=attempts), sleep=briefly)


@asynccontextmanager
async def jobs(server: Server, timeout_s: float = 10.0) -> AsyncIterator[FinetuningJobs]:
    """The jobs of the server's account, as a process that has just started sees them."""
    async with client(server, timeout_s) as opened:
        yield FinetuningJobs(
            opened, caller(), base=BASE, address=ADDRESS, polling=FilePolling(0.01)
        )


@asynccontextmanager
async def files(server: Server) -> AsyncIterator[Files]:
    """The files of the server's account."""
    async with client(server) as opened:
        yield Files(opened, caller(), FilePolling(0.01))


def spec(**changes: object) -> FinetuneSpec:
    """`SPEC` with changes."""
    return replace(SPEC, **changes)


async def followed(its_jobs: FinetuningJobs, handle) -> list[JobState]:
    """The states of a job to its end."""
    states = []
    while True:
        states.append(await its_jobs.poll(handle))
        if states[-1].done:
            return states
        await asyncio.sleep(0.01)
