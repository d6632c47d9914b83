"""An environment with a `vllm` that is none, and a trainer whose models answer as it does."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from providers.base import BaseWeights, Provider
from providers.cluster.settings import ClusterSettings
from providers.hyperparameters import Hyperparameters
from providers.serving.cluster_server import place_servers
from providers.serving.engines import ServerPlan
from providers.serving.environment import find_engine
from providers.serving.planning import ManagedServing
from providers.serving.provider import ManagedProvider, make_servers
from providers.serving.server import RunServer
from providers.serving.settings import AdapterNeed, EngineSettings
from providers.types import (
    Capabilities,
    Completion,
    FinetuneSpec,
    JobHandle,
    JobState,
    Message,
    ModelRef,
    Request,
    Score,
)
from tests.providers.engine_stand_in import answer, logprob, read_weights

BASE = "fake:base"


class EngineEnvironment:
    """A folder with `bin/python` and `bin/vllm`; `behavior` is what the next start does."""

    def __init__(self, folder: Path, version: str = "0.32.0") -> None:
        self.folder = folder
        site = folder / "site" / "vllm-1.dist-info"
        site.mkdir(parents=True)
        (site / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
        stand_in = Path(__file__).with_name("engine_stand_in.py")
        self._write("python", f'PYTHONPATH={site.parent} exec {sys.executable} -S "$@"')
        self._write("vllm", f'exec {sys.executable} -I -S {stand_in} {folder} "$@"')
        self.behave()

    def _write(self, name: str, command: str) -> None:
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{command}\n")
        path.chmod(0o755)

    def behave(self, **behavior: Any) -> None:
        (self.folder / "behavior.json").write_text(json.dumps(behavior))

    @property
    def python(self) -> str:
        return str(self.folder / "bin" / "python")

    def events(self, kind: str) -> list[dict[str, Any]]:
        path = self.folder / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [found for line in lines if (found := json.loads(line))["event"] == kind]

    def running(self) -> list[int]:
        """The processes of all starts, children included, that are still there."""
        started = [event["pid"] for event in (*self.events("start"), *self.events("child"))]
        return [pid for pid in started if is_alive(pid)]


def is_alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state not in "ZX"


class FolderTrainer(Provider):
    """Knows its models by the files in `workdir`; `closed` counts trainers that were closed."""

    closed = 0

    def __init__(self, workdir: Path) -> None:
        self._workdir = workdir

    @property
    def base(self) -> ModelRef:
        return ModelRef(BASE, BASE)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(finetune=True, score=True)

    def _weights(self, model: ModelRef) -> bytes:
        return b"" if model.artifact is None else read_weights(self._workdir / model.artifact)

    async def complete(self, request: Request) -> Completion:
        messages = [{"role": m.role, "content": m.content} for m in request.messages]
        return Completion(answer(self._weights(request.model), messages), "stop", 1, 1, 0.0)

    async def score(self, model: ModelRef, messages: Sequence[Message], text: str) -> Score:
        weights = self._weights(model)
        return Score(tuple(map(ord, text)), tuple(logprob(weights, c) for c in text))

    async def write_trial_adapter(self, hyperparameters: Hyperparameters, folder: Path) -> bool:
        make_adapter(folder.parent, folder.name)
        return True

    async def submit(self, spec: FinetuneSpec) -> JobHandle:
        return JobHandle(spec.name, spec.name, spec.digest)

    async def poll(self, handle: JobHandle) -> JobState:
        model = ModelRef(handle.name, BASE, handle.name)
        return JobState("succeeded", "succeeded", 1.0, model=model, artifact_sha256=None)

    async def close(self) -> None:
        FolderTrainer.closed += 1


def make_adapter(workdir: Path, name: str) -> ModelRef:
    """An adapter's folder, whose weights are its name."""
    folder = workdir / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4}))
    (folder / "adapter_model.safetensors").write_bytes(name.encode())
    return ModelRef(name, BASE, name)


def open_managed(
    environment: EngineEnvironment,
    workdir: Path,
    adapters: int = 2,
    *,
    shares_device: bool = True,
    cluster: ClusterSettings | None = None,
    **changes: Any,
) -> ManagedProvider:
    """A trainer and a server of its own, which compute on one device if nothing else is said."""
    engine = EngineSettings("vllm", python=environment.python, **changes)
    managed = ManagedServing(engine, AdapterNeed(adapters, 4), {"give_up_after_s": 120.0})
    found = find_engine(engine)
    assert found is not None
    weights = BaseWeights("org/base", "float32")
    plan = ServerPlan(engine, weights, managed.need, found.on_cpu, found.version)

    async def open_servers() -> Sequence[RunServer]:
        if cluster is not None:
            return await place_servers(cluster, plan, workdir)
        return make_servers(plan, workdir)

    return ManagedProvider(
        lambda: FolderTrainer(workdir),
        open_servers,
        plan,
        managed,
        workdir,
        shares_device=shares_device,
    )
