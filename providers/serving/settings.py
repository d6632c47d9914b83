"""What a user says about a server that the run starts, checked before anything is started."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from providers.errors import InvalidSettings

EngineName = Literal["vllm", "sglang"]
WhileTraining = Literal["auto", "stop", "keep"]
ServerCount = int | Literal["auto"]

# The run decides these itself, and another value would break what it relies on.
_OWN_FLAGS = frozenset(
    {
        *("--host", "--port", "--api-key", "--served-model-name", "--model", "--model-path"),
        *("--dtype", "--generation-config", "--enable-lora", "--max-loras", "--max-cpu-loras"),
        *("--max-lora-rank", "--max-loras-per-batch", "--max-loaded-loras", "--config"),
        *("--tensor-parallel-size", "--tp-size", "--max-model-len", "--context-length"),
        *("--reasoning-parser", "--enable-sleep-mode"),
    }
)
_OWN_VARIABLES = frozenset({"VLLM_API_KEY", "VLLM_ALLOW_RUNTIME_LORA_UPDATING"})


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The keys of `[serving]` about a server that the run starts.

    engine: what is started. python: the Python of the environment that has it. command: in place
        of `python`, the words before the engine's own arguments, such as those of a container.
    servers: how many the nodes of a cluster have; "auto" for as many as they hold.
    gpus: the numbers of the graphics cards it may use; () for all that are visible.
    context_tokens: what prompt and answer may have together; None for all that the model can.
    port: None takes a free one.
    arguments, environment: more of both, for the engine.
    start_timeout_s: how long it may take until it answers.
    restarts: how often in a row a server that died is started again.
    while_training: whether it is stopped while models are trained.

    Example: `EngineSettings("vllm", python="/opt/vllm/bin/python")`.
    """

    engine: EngineName
    python: str | None = None
    command: tuple[str, ...] = ()
    servers: ServerCount = "auto"
    gpus: tuple[int, ...] = ()
    gpus_per_server: int = 1
    context_tokens: int | None = None
    port: int | None = None
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    start_timeout_s: float = 900.0
    restarts: int = 3
    while_training: WhileTraining = "auto"

    @property
    def prefix(self) -> tuple[str, ...]:
        """The words of the command before the engine's own arguments."""
        if self.python is None:
            return self.command
        if self.engine == "vllm":
            return (str(Path(self.python).expanduser().parent / "vllm"), "serve")
        return (str(Path(self.python).expanduser()), "-m", "sglang.launch_server")


@dataclass(frozen=True, slots=True)
class AdapterNeed:
    """The adapters of an experiment: how many are asked side by side, and their largest rank."""

    count: int
    rank: int


def check_engine_settings(settings: EngineSettings, *, on_nodes: bool = False) -> None:
    """Raise `InvalidSettings` for what shows without starting anything.

    `on_nodes`: the servers run on the nodes of a cluster, whose disks are not seen here.
    """
    if (settings.python is None) == (not settings.command):
        raise InvalidSettings(
            f"serving.engine = {settings.engine!r} needs python or command, and not both: set "
            f'serving.python = "/path/to/environment/bin/python", where {settings.engine} is '
            "installed in an environment of its own"
        )
    _check_place(settings, on_nodes=on_nodes)
    if not on_nodes:
        check_program(settings)
    for argument in settings.arguments:
        name = argument.partition("=")[0]
        if name in _OWN_FLAGS:
            raise InvalidSettings(
                f"serving.arguments has {name}, which follows from the experiment; remove it"
            )
    for name in settings.environment:
        if name in _OWN_VARIABLES:
            raise InvalidSettings(
                f"serving.environment has {name}, which the run sets itself; remove it"
            )
    if len(set(settings.gpus)) != len(settings.gpus):
        raise InvalidSettings(f"serving.gpus = {list(settings.gpus)} names one twice; remove it")
    if settings.gpus and len(settings.gpus) < settings.gpus_per_server:
        raise InvalidSettings(
            f"serving.gpus_per_server = {settings.gpus_per_server}, and serving.gpus names "
            f"{len(settings.gpus)}; name more, or take fewer for a server"
        )


def _check_place(settings: EngineSettings, *, on_nodes: bool) -> None:
    if not on_nodes:
        if settings.servers != "auto":
            raise InvalidSettings(
                f"serving.servers = {settings.servers} is for the nodes of [cluster]; without it, "
                "name this machine's graphics cards in serving.gpus, and each has a server"
            )
        return
    for name in ("gpus", "port"):
        if value := getattr(settings, name):
            shown = list(value) if name == "gpus" else value
            raise InvalidSettings(
                f"serving.{name} = {shown}: with [cluster] the servers run on its nodes, where Ray "
                "chooses cards and each server a free port; remove it"
            )


def check_program(settings: EngineSettings) -> None:
    """Raise `InvalidSettings` if what is started is not on this machine."""
    if settings.python is None:
        program = settings.command[0]
        if shutil.which(program) is None:
            raise InvalidSettings(
                f"serving.command begins with {program!r}, and there is no such program; correct "
                "it, or install the program"
            )
        return
    python = Path(settings.python).expanduser()
    if not python.is_file() or not os.access(python, os.X_OK):
        raise InvalidSettings(
            f"serving.python = {settings.python!r} is no program; name the Python of the "
            f"environment that has {settings.engine}, such as /path/to/environment/bin/python"
        )
    program = settings.prefix[0]
    if not os.access(program, os.X_OK):
        raise InvalidSettings(
            f"serving.python = {settings.python!r}: there is no {program}, so {settings.engine} is "
            f"not installed there; {settings.python} -m pip install {settings.engine}"
        )
