"""What of a training would run where on a cluster, and what does not fit: `society doctor`.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from providers.cluster.asking import ANSWER_S, Reply, ask_nodes
from providers.cluster.connection import Node, connect_ray, count, list_nodes
from providers.cluster.files import mark_folder
from providers.cluster.places import Demand, describe_shortage
from providers.cluster.settings import ClusterSettings
from providers.errors import ProviderError
from providers.local.cluster_plan import (
    estimate_bytes,
    make_demand,
    plan_cluster_lanes,
    refuse_settings,
)
from providers.local.machine import list_free_cards
from providers.local.memory import ModelSize, measure_model, write_size
from providers.local.settings import LocalSettings
from providers.local.source import ModelSource, find_folder, is_built_in, read_config
from providers.local.worker_actor import describe_node_fault
from providers.types import Finding, Hyperparameters

_CHECK = "cluster"
_COMPUTING = ("torch", "transformers", "peft")
"""Packages of other versions may train other last bits."""


def preflight_nodes(
    source: ModelSource,
    settings: LocalSettings,
    cluster: ClusterSettings,
    workdir: Path,
    how: Hyperparameters,
) -> list[Finding]:
    """A finding for the whole and one for each node. Raises no `ProviderError`."""
    try:
        refuse_settings(settings)
        ray = connect_ray(cluster)
        folder = find_folder(source)
        config = read_config(source)
        size = None if folder is None else measure_model(folder, source.gguf_file, config)
    except ProviderError as error:
        return [Finding("error", str(error), check=_CHECK)]
    nodes = list_nodes(ray)
    demand = make_demand(settings, nodes, size, how)
    # The folder's own token is made by the run: a check leaves nothing behind.
    with mark_folder(workdir) as mark:
        if cluster.send_files == "always":
            mark = None
        replies = _probe(ray, nodes, source, mark)
    needed = None if size is None else estimate_bytes(settings, size, how)
    found = [_judge(node, demand, needed, replies.get(node.node_id)) for node in nodes]
    usable = [
        node
        for node, one in zip(nodes, found, strict=True)
        # One that has not answered may only be busy: Ray would know if it were gone.
        if demand.count_on(node) and (one.level == "ok" or node.node_id not in replies)
    ]
    return [_sum_up(ray, settings, demand, nodes, usable, size), *found]


def _sum_up(
    ray: Any,
    settings: LocalSettings,
    demand: Demand,
    nodes: Sequence[Node],
    usable: Sequence[Node],
    size: ModelSize | None,
) -> Finding:
    if not usable:
        text = f"no node can train: {describe_shortage(demand, nodes)}"
        remedy = (
            "add a node with more, or lower [provider] threads; if the cluster adds nodes by "
            "itself, skip this check"
        )
        return Finding("error", text, remedy, _CHECK)
    # Nodes that cannot train are not counted, though the run may yet try them.
    plan = plan_cluster_lanes(settings, demand, usable)
    unknown = "" if size is not None else "; their memory is known once the model is on this disk"
    text = f"Ray {ray.__version__}: {plan}{unknown}; this process trains nothing"
    return Finding("ok", text, check=_CHECK)


def _judge(node: Node, demand: Demand, needed: int | None, reply: Reply | None) -> Finding:
    """What one node can do; a warning if it should train and cannot."""
    places = demand.count_on(node)
    if not places:
        # Such as a head node that has lent nothing, which is usual.
        text = f"node {node} trains nothing: it has no room for {demand}"
        return Finding("ok", text, check=_CHECK)
    if reply is None:
        text = f"node {node} did not answer within {ANSWER_S:.0f} s"
        return Finding("warning", text, "look for it in `ray status`", _CHECK)
    if fault := reply["fault"]:
        return Finding("warning", f"node {node} cannot train: {fault}", check=_CHECK)
    cards = reply["cards"]
    if demand.gpus and needed is not None and cards and max(cards) < needed:
        best = write_size(max(cards))
        text = f"node {node}: about {write_size(needed)} of a card are needed, and {best} are free"
        return Finding("warning", text, "free it, or see the remedies for memory", _CHECK)
    parts = [f"node {node}: up to {count(places, 'training worker')}"]
    if needed is not None:
        parts.append(f"about {write_size(needed)} each")
    parts.append(reply["files"])
    if differ := _list_differences(reply["versions"]):
        parts.append(f"other versions than here, which may train other last bits: {differ}")
    return Finding("ok", ", ".join(parts), check=_CHECK)


def _list_differences(there: Mapping[str, str | None]) -> str:
    mine = _read_versions()
    return ", ".join(
        f"{name} {there.get(name)} (here {mine[name]})"
        for name in _COMPUTING
        if there.get(name) != mine[name]
    )


def _probe(
    ray: Any, nodes: Sequence[Node], source: ModelSource, mark: Path | None
) -> dict[str, Reply]:
    request = {
        "source": {"name": source.name, "local": source.local},
        "built_in": is_built_in(source),
        "mark": None if mark is None else str(mark),
    }
    return ask_nodes(ray, nodes, describe_this_node, request)


def describe_this_node(request: Reply) -> dict[str, Any]:
    """Carried out on the node."""
    mark = request["mark"]
    sees = mark is not None and Path(mark).exists()
    return {
        "fault": describe_node_fault(request),
        "files": "sees the run's folder" if sees else "models are sent to and fro",
        "versions": _read_versions(),
        "cards": list_free_cards(),
    }


def _read_versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in _COMPUTING:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
