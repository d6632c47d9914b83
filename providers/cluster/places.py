"""Room for one process on a node: asked for, waited for, given back."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from providers.cluster.connection import Node, count, list_nodes

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Demand:
    """What a process takes of a node: CPUs, graphics cards, and bytes of main memory.

    >>> str(Demand(cpus=2, gpus=1, memory_bytes=0))
    '2 CPUs, 1 graphics card'
    """

    cpus: int
    gpus: int = 0
    memory_bytes: int = 0

    def __str__(self) -> str:
        parts = [count(self.cpus, "CPU")]
        if self.gpus:
            parts.append(count(self.gpus, "graphics card"))
        if self.memory_bytes:
            parts.append(f"{self.memory_bytes / 1e9:.1f} GB of memory")
        return ", ".join(parts)

    def count_on(self, node: Node) -> int:
        """How many such processes an empty node holds."""
        # What other programs take of the node is known to Ray only when room is asked for.
        room = [node.cpus // self.cpus]
        if self.gpus:
            room.append(node.gpus // self.gpus)
        if self.memory_bytes:
            room.append(node.memory_bytes // self.memory_bytes)
        return int(min(room))

    def write_bundle(self) -> dict[str, float]:
        """The demand as Ray's placement groups name it."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory_bytes}
        return {name: float(amount) for name, amount in wanted.items() if amount}


def describe_shortage(demand: Demand, nodes: Iterable[Node]) -> str:
    """What is asked for, and what there is."""
    there = "; ".join(map(str, nodes)) or "none"
    return f"a process takes {demand}, and the nodes are: {there}"


class Placement:
    """A placement group for one actor, from its request to its release.

    ```python
    place = Placement(ray, Demand(cpus=1))
    while not place.wait(0.2):
        ...
    actor = place.start(WorkerActor)
    place.release()
    ```
    """

    def __init__(self, ray: Any, demand: Demand) -> None:
        from ray.util import placement_group

        self._ray, self._demand = ray, demand
        self._group = placement_group([demand.write_bundle()])
        self._granted = self._group.ready()
        self._asked_at = time.monotonic()
        self._actor: Any = None

    @property
    def waited_s(self) -> float:
        return time.monotonic() - self._asked_at

    def wait(self, timeout_s: float) -> bool:
        """Whether a node has given the room, by now or within `timeout_s`."""
        done, _ = self._ray.wait([self._granted], timeout=timeout_s)
        return bool(done)

    def describe_shortage(self) -> str:
        """Why there is no room, after a wait that was in vain."""
        return describe_shortage(self._demand, list_nodes(self._ray))

    def start(self, kind: type, calls_at_a_time: int = 4) -> Any:
        """An actor of the class `kind` in this place; it ends with the connection at the latest."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        demand = self._demand
        # Nothing is repeated by Ray: the lane that gave the actor its jobs knows which are left,
        # and a repeated job of another worker must not write beside it.
        options = self._ray.remote(kind).options(
            num_cpus=demand.cpus,
            num_gpus=demand.gpus,
            memory=demand.memory_bytes or None,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=calls_at_a_time,
            scheduling_strategy=PlacementGroupSchedulingStrategy(placement_group=self._group),
        )
        self._actor = options.remote()
        return self._actor

    def release(self) -> None:
        """End the actor, and give the room back. A cluster that is gone needs nothing of it."""
        from ray.util import remove_placement_group

        # The actor first: with its room gone, Ray would report it as lost.
        with suppress(Exception):
            if self._actor is not None:
                self._ray.kill(self._actor)
        try:
            remove_placement_group(self._group)
        except Exception as error:
            _log.info("a place of the cluster was not given back: %s", error)
