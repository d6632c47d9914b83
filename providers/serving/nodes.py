"""What the nodes of a cluster can serve: asked before a server is placed on one.

A server takes graphics cards where nodes have them and its engine uses them, else a node's CPUs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from providers.base import BaseWeights, Settings
from providers.cluster.asking import ANSWER_S, Reply, ask_nodes, find_difference
from providers.cluster.connection import Node, connect_ray, list_nodes
from providers.cluster.places import Demand
from providers.cluster.settings import ClusterSettings
from providers.embedded import MODEL_DIR
from providers.errors import InvalidSettings, ProviderError
from providers.serving.engines import ServerPlan
from providers.serving.environment import InstalledEngine, find_engine
from providers.serving.settings import EngineSettings, check_program


@dataclass(frozen=True, slots=True)
class NodeReport:
    """A node that could hold a server, with what it says; None if it has not answered."""

    node: Node
    reply: Reply | None

    @property
    def fault(self) -> str | None:
        """Why it serves nothing; None if it may."""
        if self.reply is None:
            return f"it did not answer within {ANSWER_S:.0f} s"
        fault: str | None = self.reply["fault"]
        return fault

    @property
    def sees(self) -> bool:
        """Whether it sees the run's folder."""
        return self.reply is not None and bool(self.reply["sees"])

    @property
    def engine(self) -> InstalledEngine | None:
        """What is installed there; None for a container, whose inside is not seen."""
        engine: InstalledEngine | None = None if self.reply is None else self.reply["engine"]
        return engine


def make_demand(plan: ServerPlan, nodes: Sequence[Node]) -> Demand:
    """What one server takes of its node: graphics cards and a CPU, or the CPUs of a whole node."""
    if not plan.on_cpu and any(node.gpus >= 1 for node in nodes):
        return Demand(1, plan.settings.gpus_per_server)
    # Where nodes differ, the smallest one holds one server, too.
    return Demand(min((int(node.cpus) for node in nodes if node.cpus >= 1), default=1))


def leaves_room(
    plan: ServerPlan, nodes: Sequence[Node], trainer: Settings, *, has_cards: bool
) -> bool:
    """Whether models are surely trained on the nodes beside the servers: on their CPUs, or on cards
    that are left.

    `has_cards`: this machine has some, so that the trainer here, which tries adapters, may take one
    that Ray has lent to a server.
    """
    demand = make_demand(plan, nodes)
    # Without cards a server takes a whole node, and training is better off with all of them.
    if not demand.gpus:
        return False
    # A worker takes CPUs then, of which a server takes only one.
    if trainer.get("device") == "cpu":
        return True
    servers, workers = plan.settings.servers, trainer.get("training_workers")
    # "auto" means all that there is, for servers as for workers, so nothing would be left.
    if has_cards or servers == "auto" or not isinstance(workers, int):
        return False
    return servers * demand.gpus + workers <= sum(int(node.gpus) for node in nodes)


def count_servers(plan: ServerPlan, demand: Demand, nodes: Sequence[Node]) -> int:
    """As many as the nodes hold, or as `servers` says. At least one: a node may yet come."""
    if plan.settings.servers != "auto":
        return plan.settings.servers
    return max(1, sum(map(demand.count_on, nodes)))


def is_built_in(weights: BaseWeights) -> bool:
    """Whether the model ships with this package, wherever that is installed on a node."""
    return weights.name == str(MODEL_DIR.resolve())


def survey_nodes(
    ray: Any, settings: EngineSettings, weights: BaseWeights, mark: Path | None = None
) -> list[NodeReport]:
    """What every node says that has lent CPUs. A node sees the run's folder if it sees `mark`."""
    # A head node that lends nothing only keeps the books, and needs no engine.
    nodes = [node for node in list_nodes(ray) if node.cpus >= 1]
    request = {
        "settings": settings,
        "model": find_model_folder(weights),
        "mark": None if mark is None else str(mark),
    }
    replies = ask_nodes(ray, nodes, describe_this_node, request)
    return [NodeReport(node, replies.get(node.node_id)) for node in nodes]


def find_model_folder(weights: BaseWeights) -> Path | None:
    """Where every node has to have the model; None for one that each finds by itself."""
    # A name of the hub is no path: each node downloads the model, or has it in its cache.
    path = Path(weights.name)
    return path if path.is_absolute() and not is_built_in(weights) else None


def find_engine_on_nodes(
    cluster: ClusterSettings, settings: EngineSettings, weights: BaseWeights
) -> InstalledEngine | None:
    """The engine that all nodes have which can serve; None for a container's.

    Raises `InvalidSettings` if no node can, or they have different versions.
    """
    return agree_on_engine(survey_nodes(connect_ray(cluster), settings, weights), settings)


def agree_on_engine(
    reports: Sequence[NodeReport], settings: EngineSettings
) -> InstalledEngine | None:
    """The same, by what the nodes have said."""
    # A node that cannot serve, such as a head node without cards, must not keep others from it.
    well = [report for report in reports if report.fault is None]
    if not well:
        faults = "; ".join(f"{report.node}: {report.fault}" for report in reports)
        raise InvalidSettings(
            f"serving.engine = {settings.engine!r}: no node of the cluster can serve: "
            f"{faults or 'none has lent a CPU'}"
        )
    versions = {report.engine: report for report in well}
    if len(versions) > 1:
        shown = ", ".join(
            f"{engine.version if engine else '?'} on {report.node}"
            for engine, report in versions.items()
        )
        raise InvalidSettings(
            f"the nodes have different versions of {settings.engine}: {shown}; their answers could "
            "not be compared: install the same one on all"
        )
    engine = well[0].engine
    if engine is not None and not engine.on_cpu and not any(r.node.gpus >= 1 for r in well):
        raise InvalidSettings(
            f"{settings.engine} {engine.version} computes on graphics cards, and no node of the "
            "cluster has lent one; start its nodes with `ray start --num-gpus=…`"
        )
    return engine


def describe_this_node(request: Mapping[str, Any]) -> dict[str, Any]:
    """Carried out on the node. `request` has the run's "version", the "model"'s folder, if it has
    to be there, and the engine's "settings"."""
    mark = request["mark"]
    reply: dict[str, Any] = {"engine": None, "sees": mark is not None and Path(mark).exists()}
    reply["fault"] = find_difference(request["version"], request["model"])
    if reply["fault"] is None:
        # Here rather than in the run: only the node sees its own disk.
        try:
            check_program(request["settings"])
            reply["engine"] = find_engine(request["settings"])
        except ProviderError as error:
            reply["fault"] = str(error)
    return reply
