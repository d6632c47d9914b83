"""Questions to every node of a cluster, before anything is started there.

Each is a call of its own, which takes none of the node's CPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from providers.cluster.connection import Node
from providers.extras import PROJECT

ANSWER_S = 60.0
"""How long a node may take to answer."""
Reply = Mapping[str, Any]
"""What a node says; "fault" is why it can do nothing for the run, None if it may."""


def ask_nodes(
    ray: Any, nodes: Sequence[Node], question: Callable[[Reply], Reply], request: Reply
) -> dict[str, Reply]:
    """What `question(request)` returns on each node, by the nodes' ids, of those that answer in
    time.

    The function is carried out there, so it belongs to a module of this package.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    calls = {
        ray.remote(question)
        .options(
            num_cpus=0,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False),
        )
        .remote({**request, "version": version(PROJECT)}): node.node_id
        for node in nodes
    }
    # All at the same time: a node that hangs costs one time-out.
    done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=ANSWER_S)
    replies: dict[str, Reply] = {}
    for call in done:
        try:
            replies[calls[call]] = ray.get(call)
        except Exception as error:
            first = next(iter(str(error).strip().splitlines()), "")
            fault = f"{PROJECT} is not installed there, or the node is gone ({first})"
            replies[calls[call]] = {"fault": fault}
    return replies


def find_difference(run: str, model: Path | None) -> str | None:
    """What keeps this node from working for a run of the package's version `run` on a model in the
    folder `model`, None for one from elsewhere. Carried out on the node."""
    if (mine := version(PROJECT)) != run:
        return f"it has {PROJECT} {mine}, and the run has {run}; install the same"
    if model is not None and not model.exists():
        return (
            f"the model's folder '{model}' is not there; put it at the same place on every node, "
            "or on a disk that all nodes see"
        )
    return None
