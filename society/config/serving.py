"""What answers for models that are trained on this machine: `[serving]`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from providers.answer_server import AnswerServer
from providers.serving.settings import EngineName, EngineSettings, WhileTraining
from society.config.values import Count, Positive, Section, Whole, Words

Port = Annotated[int, Field(ge=1, le=65535)]
# What a server that the user has started cannot have, since the run starts none.
_OF_AN_ENGINE = (
    *("python", "command", "servers", "gpus", "gpus_per_server", "context_tokens", "port"),
    *("arguments", "environment", "start_timeout_s", "restarts", "while_training"),
)


class ServingSection(Section):
    """Servers that answer for `model`: adapters are trained on this machine and loaded by them."""

    added = frozenset(
        {"address", "addresses", "engine", "canary", "allow_other_server", *_OF_AN_ENGINE}
    )
    address: str = ""
    """The server: `openai+http://HOST:PORT/v1:MODEL`."""
    addresses: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """In place of `address`: several servers of one model, which share the calls
    ([experiments.md](experiments.md#several-servers))."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """The keys of `[provider]` for each server."""
    path_map: dict[str, str] = Field(default_factory=dict)
    """The folders that the servers see in place of local ones:
    `{"/data/runs" = "/mnt/runs"}`."""
    canary: bool = True
    """Whether the server's answers with new adapters are compared with the trainer's
    ([serving.md](serving.md#the-canary))."""
    allow_other_server: bool = False
    """Whether a stored run may go on with a server of another version or other arguments."""
    engine: EngineName | None = None
    """In place of `address`: the run starts and stops servers of its own
    ([serving.md](serving.md))."""
    python: Words | None = None
    """The Python of the environment that has the engine: `/path/to/environment/bin/python`."""
    command: Annotated[tuple[Words, ...], Field(strict=False)] = ()
    """In place of `python`: the words before the engine's own arguments, such as those of a
    container."""
    servers: Count | Literal["auto"] = "auto"
    """How many servers run on the nodes of `[cluster]`: `auto` for as many as their free graphics
    cards hold, or one for each node without cards ([cluster.md](cluster.md#servers))."""
    gpus: Annotated[tuple[Whole, ...], Field(strict=False)] = ()
    """The numbers of the graphics cards that servers may use; by default the first server has all
    that are visible."""
    gpus_per_server: Count = 1
    """How many graphics cards compute one answer together."""
    context_tokens: Count | None = None
    """What prompt and answer may have together; by default all that the model can. Less saves
    memory."""
    port: Port | None = None
    """The server's port; by default a free one."""
    arguments: Annotated[tuple[Words, ...], Field(strict=False)] = ()
    """More arguments for the engine: `["--gpu-memory-utilization=0.8"]`."""
    environment: dict[str, str] = Field(default_factory=dict)
    """More environment variables for the engine."""
    start_timeout_s: Positive = 900.0
    """How long the server may take until it answers."""
    restarts: Whole = 3
    """How often in a row a server that died is started again."""
    while_training: WhileTraining = "auto"
    """`stop` ends the server while models are trained, `keep` does not; `auto` keeps it where
    training surely has a device of its own."""

    @model_validator(mode="after")
    def _name_servers_once(self) -> ServingSection:
        named = [bool(self.address), bool(self.addresses), self.engine is not None]
        if sum(named) != 1:
            raise ValueError(
                "set address, or addresses for several servers, or engine for servers that the run "
                f"starts; {'none' if not any(named) else 'more than one'} of them is set"
            )
        if self.engine is None:
            for name in _OF_AN_ENGINE:
                if getattr(self, name) != type(self).model_fields[name].get_default(
                    call_default_factory=True
                ):
                    raise ValueError(
                        f"{name} is for a server that the run starts; set engine, or remove it"
                    )
        elif self.path_map:
            raise ValueError(
                "path_map is for a server on another machine; mount the run's folder under its own "
                "path in a container, and remove path_map"
            )
        return self

    def list_servers(self) -> tuple[AnswerServer, ...]:
        """The user's own servers in the terms of `providers`."""
        addresses = self.addresses or (self.address,)
        return tuple(AnswerServer(a, self.settings, self.path_map) for a in addresses)

    def count_servers(self) -> int:
        """How many servers answer, as far as the file says it."""
        if self.engine is None:
            return len(self.list_servers())
        if self.servers != "auto":
            return self.servers
        return max(1, len(self.gpus) // self.gpus_per_server)

    def engine_settings(self) -> EngineSettings | None:
        """The run's own servers in the terms of `providers`; None if the user has started them."""
        if self.engine is None:
            return None
        return EngineSettings(self.engine, **{name: getattr(self, name) for name in _OF_AN_ENGINE})
