"""How many training workers a cluster holds, and what each takes of its node.

Imports no torch, so that `society doctor` can say it before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence

from providers.cluster.connection import Node, count
from providers.cluster.places import Demand
from providers.errors import InvalidSettings
from providers.hyperparameters import Hyperparameters
from providers.local.lane_plan import LanePlan
from providers.local.machine import guess_dtype_bytes
from providers.local.memory import ModelSize, make_plan
from providers.local.settings import LocalSettings

# The device of every lane: Ray gives each worker a card of its node, which it alone sees.
_A_CARD = "of its node"


def refuse_settings(settings: LocalSettings) -> None:
    """Raise `InvalidSettings` for what a worker on another machine could not honor."""
    if settings.device_map is not None:
        raise InvalidSettings(
            f"[provider] device_map = {settings.device_map!r} spreads one model over this "
            "machine's devices, and [cluster] trains on others; remove one of them"
        )
    if settings.device in ("mps", "xpu"):
        raise InvalidSettings(
            f"[provider] device = {settings.device!r}: workers of [cluster] train on the CPU or on "
            "cards of CUDA; set 'cpu', 'cuda' or 'auto'"
        )


def uses_cards(settings: LocalSettings, nodes: Sequence[Node]) -> bool:
    """Whether workers train on graphics cards: by the settings, else if the cluster has any."""
    if settings.device == "auto":
        return any(node.gpus >= 1 for node in nodes)
    return settings.device.startswith("cuda")


def make_demand(
    settings: LocalSettings, nodes: Sequence[Node], size: ModelSize | None, how: Hyperparameters
) -> Demand:
    """What one worker takes: a card with a CPU, or `threads` CPUs and the estimated memory."""
    cpus = settings.threads or 1
    if uses_cards(settings, nodes):
        return Demand(cpus, 1)
    return Demand(cpus, 0, 0 if size is None else estimate_bytes(settings, size, how))


def estimate_bytes(settings: LocalSettings, size: ModelSize, how: Hyperparameters) -> int:
    """The memory of a worker that trains one job: on its card, or of the node."""
    return size.estimate_worker(make_plan(settings, guess_dtype_bytes(settings), how))


def plan_cluster_lanes(settings: LocalSettings, demand: Demand, nodes: Sequence[Node]) -> LanePlan:
    """As many workers as the nodes hold, or as `training_workers` says. At least one: a node may
    yet come.

    ```python
    plan_cluster_lanes(LocalSettings(), Demand(1), nodes).workers  # 16 on two nodes of 8 CPUs
    ```
    """
    places = sum(map(demand.count_on, nodes))
    workers, reason = (
        max(1, places),
        f"{count(len(nodes), 'node')} of the cluster, {demand} for each",
    )
    if settings.training_workers != "auto":
        workers = settings.training_workers
        reason = f"training_workers = {workers}, {reason}"
    # Fewer or more threads than on this machine may change the last bits of what is trained.
    threads = settings.threads if demand.gpus else demand.cpus
    cards = (_A_CARD if demand.gpus else None,) * (1 + workers)
    return LanePlan(1 + workers, threads, cards, False, reason, trains_here=False)


def plan_unconnected(settings: LocalSettings) -> LanePlan:
    """The plan before the cluster was asked: no lane, and no job in this process."""
    reason = "the cluster has not been asked yet"
    return LanePlan(1, settings.threads or 1, (None,), False, reason, trains_here=False)
