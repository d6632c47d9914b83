"""Served societies on 127.0.0.1: of the built-in model, and of one behind a server of ours."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from society.config.load import build_config
from society.runs.folder import RunFolder, locate_run, start_run
from society.view.endpoint.web import EndpointOptions, serve_society

EXPERIMENT: dict[str, Any] = {
    "iterations": 0,
    "task": {"name": "arithmetic"},
    "society": {"agents": 3, "rounds": 2, "others": "quoted"},
    "sampling": {"temperature": 0.6, "top_p": 1.0, "max_tokens": 112},
    "train": {"questions": 2},
    "evaluation": {"questions": 2},
}
SUM = "3+4*5+6-7*8"


def make_run(runs: Path, name: str, **settings: Any) -> RunFolder:
    """A run that has only begun: its society is the untuned one."""
    folder = locate_run(runs, name)
    start_run(folder, build_config({**EXPERIMENT, **settings}, "the test", ())).close()
    return folder


@dataclass(frozen=True)
class Service:
    """A served society."""

    port: int
    said: list[str]
    record: RunFolder | None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, key: str = "none", **options: Any) -> openai.OpenAI:
        """The official client, which asks once only."""
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=key, **{"max_retries": 0, **options}
        )

    def ask(self, text: str = SUM, model: str = "society", **options: Any) -> Any:
        """A completion; of a stream, all chunks."""
        with self.client() as client:
            reply = client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": text}], **options
            )
            return list(reply) if options.get("stream") else reply

    def figures(self) -> dict[str, float]:
        """What /metrics says, by name and labels."""
        lines = httpx2.get(f"{self.url}/metrics").text.splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}


@contextmanager
def served(folder: RunFolder, record: RunFolder | None = None, **options: Any) -> Iterator[Service]:
    """`society serve` in a thread, while the block runs."""
    said: list[str] = []
    started = threading.Event()
    found: dict[str, Any] = {}

    def on_start(stop: Callable[[], None], port: int) -> None:
        found.update(stop=stop, port=port)
        started.set()

    def work() -> None:
        chosen = replace(EndpointOptions(port=0, grace_s=5.0), **options)
        try:
            asyncio.run(
                serve_society(
                    folder,
                    chosen,
                    record=record,
                    say=said.append,
                    tell=said.append,
                    on_start=on_start,
                )
            )
        except BaseException as error:
            found["error"] = error
        finally:
            started.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    started.wait()
    if "error" in found:
        raise found["error"]
    try:
        yield Service(found["port"], said, record)
    finally:
        found["stop"]()
        thread.join()
    if "error" in found:
        raise found["error"]


@pytest.fixture(scope="session")
def serve() -> Callable[..., Any]:
    return served


@pytest.fixture(scope="session")
def new_run() -> Callable[..., RunFolder]:
    return make_run
