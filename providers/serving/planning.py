"""What the servers of a run have to hold, and what they will be started with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from providers import registry
from providers.base import Provider, Settings
from providers.cluster.settings import ClusterSettings, check_cluster_settings
from providers.errors import InvalidSettings
from providers.serving.engines import ServerPlan
from providers.serving.environment import InstalledEngine, find_engine
from providers.serving.nodes import find_engine_on_nodes
from providers.serving.settings import AdapterNeed, EngineSettings, check_engine_settings

OF_THE_PROMPT = ("chat_template_kwargs", "reasoning_effort")
"""The settings of the trainer that change a conversation's prompt."""


@dataclass(frozen=True, slots=True)
class ManagedServing:
    """`[serving]` with an engine: the servers, what connects to them, and what they have to hold.

    `connection` are settings of the connection, beside those that the run decides itself. With
    `canary` the adapters are tried after every load. The servers run on this machine, or on the
    nodes of the `cluster`.
    """

    engine: EngineSettings
    need: AdapterNeed
    connection: Mapping[str, object] = field(default_factory=dict)
    canary: bool = True
    cluster: ClusterSettings | None = None


def check_managed(managed: ManagedServing, address: str, trainer: Settings) -> None:
    """Raise `InvalidSettings` for what shows without starting anything.

    `address` and `trainer` are those of the provider that trains.
    """
    check_engine_settings(managed.engine, on_nodes=managed.cluster is not None)
    if managed.cluster is not None:
        check_cluster_settings(managed.cluster)
        _require_room(managed.engine, trainer)
    registry.locate_weights(address, trainer)
    for name in ("api_key_env", "headers", *OF_THE_PROMPT):
        if name in managed.connection:
            raise InvalidSettings(
                f"serving.settings.{name} is set by the run itself for a server that it starts; "
                "remove it"
            )
    registry.check("openai+http://127.0.0.1:1/v1:base", managed.connection)


def _require_room(engine: EngineSettings, trainer: Settings) -> None:
    """Raise for servers that would never let any model be trained on the nodes."""
    keeps = engine.while_training == "keep" and engine.servers == "auto"
    if keeps and trainer.get("device") != "cpu":
        raise InvalidSettings(
            'serving.while_training = "keep" with as many servers as the nodes of [cluster] hold '
            "leaves no card to training; set serving.servers to a number, or remove while_training"
        )


def plan_server(managed: ManagedServing, address: str, trainer: Settings) -> ServerPlan:
    """What the servers will be started with. Looks into their environment, which takes a moment.

    Raises `InvalidSettings`.
    """
    weights = registry.locate_weights(address, trainer)
    if managed.cluster is None:
        found = find_engine(managed.engine)
    else:
        found = find_engine_on_nodes(managed.cluster, managed.engine, weights)
    if found is None:
        # A container, whose inside is not seen.
        found = InstalledEngine(version="", on_cpu=False)
    return ServerPlan(managed.engine, weights, managed.need, found.on_cpu, found.version)


def open_form(plan: ServerPlan, managed: ManagedServing) -> Provider:
    """A connection to no server, which says what one to the real server can do."""
    # It is opened at its first call, which never comes.
    address = plan.name_address("http://127.0.0.1:1")
    return registry.connect(address, managed.connection, Path())
