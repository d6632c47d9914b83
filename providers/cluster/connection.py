"""The connection to Ray, and the nodes that it has.

Ray keeps one connection for a process. It waits without a word for what does not answer, so every
wait has an end of its own here.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from providers.cluster.settings import ClusterSettings, check_cluster_settings
from providers.errors import InvalidSettings

_log = logging.getLogger(__name__)
# Ray itself would try for minutes, or for ever, depending on what is wrong.
_CONNECT_S = 60.0
_PORT_S = 10.0
# Two models of one run connect at the same time; Ray takes one connection for a process.
_CONNECTING = threading.Lock()


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster, with what Ray lends of it in all. `memory_bytes` is main memory."""

    node_id: str
    name: str
    cpus: float
    gpus: float
    memory_bytes: int

    def __str__(self) -> str:
        cards = f", {count(self.gpus, 'graphics card')}" if self.gpus else ""
        return f"{self.name} ({count(self.cpus, 'CPU')}{cards}, {self.memory_bytes / 1e9:.1f} GB)"


def count(number: float, what: str) -> str:
    """A number of things, in words.

    >>> count(2.0, "CPU")
    '2 CPUs'
    """
    return f"{number:g} {what}" if number == 1 else f"{number:g} {what}s"


def connect_ray(cluster: ClusterSettings) -> Any:
    """The package `ray`, connected. A connection that this process has already is used again.

    Raises `InvalidSettings` if Ray is not installed, or no cluster answers in time.
    """
    check_cluster_settings(cluster)
    _require_port(cluster)
    # Otherwise Ray reports every start to its makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Imported late: an experiment without a cluster does not need it.
    import ray

    with _CONNECTING:
        if not ray.is_initialized():
            _connect(ray, cluster)
    return ray


def list_nodes(ray: Any) -> list[Node]:
    """The nodes that are alive, those with most graphics cards and CPUs first."""
    nodes = [_read_node(node) for node in ray.nodes() if node["Alive"]]
    return sorted(nodes, key=lambda node: (-node.gpus, -node.cpus, node.name))


def _read_node(node: Mapping[str, Any]) -> Node:
    # On clouds the name says which machine it is, and in a cellar the address.
    host, address = node["NodeManagerHostname"], node["NodeManagerAddress"]
    lent = node["Resources"]
    return Node(
        node["NodeID"],
        host if host == address else f"{host} {address}",
        lent.get("CPU", 0.0),
        lent.get("GPU", 0.0),
        int(lent.get("memory", 0)),
    )


def _require_port(cluster: ClusterSettings) -> None:
    """Raise unless something listens: Ray would try for a minute, and print every attempt."""
    # "auto" goes by this variable where it is set.
    ray = os.environ.get("RAY_ADDRESS", "") if cluster.ray == "auto" else ""
    host, _, port = ray.removeprefix("ray://").rpartition(":")
    place = (host, int(port)) if host and port.isdigit() else cluster.host_and_port
    if place is None:
        return
    try:
        socket.create_connection(place, timeout=_PORT_S).close()
    except OSError as error:
        shown = f"cluster.ray = {cluster.ray!r}" + (f" with RAY_ADDRESS = {ray!r}" if ray else "")
        raise InvalidSettings(
            f"{shown}: nothing answers there ({error}); see that the head "
            "node runs, with `ray start --head --ray-client-server-port=10001`, and that this "
            "machine reaches the port"
        ) from error


def _connect(ray: Any, cluster: ClusterSettings) -> None:
    failures: list[BaseException] = []

    def connect() -> None:
        try:
            # What the nodes print stays in their logs. `connect_ray` has its own messages.
            ray.init(
                address=cluster.ray,
                log_to_driver=False,
                configure_logging=False,
                logging_level=logging.ERROR,
            )
            _keep_off_stdout()
        # Ray leaves with SystemExit where versions do not match.
        except BaseException as error:
            failures.append(error)

    # In a thread of its own, which may hang, and where Ray leaves the handler of SIGTERM alone.
    logging.getLogger("ray").setLevel(logging.ERROR)
    thread = threading.Thread(target=connect, name="ray-connection", daemon=True)
    thread.start()
    thread.join(_CONNECT_S)
    if thread.is_alive():
        raise _explain(cluster, f"it did not answer within {_CONNECT_S:.0f} s")
    if failures:
        raise _explain(cluster, str(failures[0])) from failures[0]


def _keep_off_stdout() -> None:
    """Send what Ray prints about lost nodes to the log: standard output is the user's."""
    from ray._private import worker

    def log(data: Mapping[str, Any], ignore_prefix: bool = False) -> None:
        _log.info("ray: %s", "\n".join(data.get("lines", ())))

    # Private to Ray, and there is no other way: another version may have no such function.
    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = log


def _explain(cluster: ClusterSettings, reason: str) -> InvalidSettings:
    first = next(iter(reason.strip().splitlines()), "no reason given")
    return InvalidSettings(
        f"cluster.ray = {cluster.ray!r}: no Ray cluster can be used: {first}; start one with "
        "`ray start --head` here and `ray start --address=HEAD:6379` on the other nodes, with the "
        "same versions of Python and Ray everywhere"
    )
