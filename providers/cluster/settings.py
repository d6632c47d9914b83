"""What a user says about a cluster, checked before anything is started."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from providers.errors import InvalidSettings
from providers.extras import require_extra
from providers.types import Finding, Hyperparameters

SendFiles = Literal["auto", "always"]

_ADDRESS = re.compile(r"ray://(?P<host>[^\s:/]+|\[[0-9a-fA-F:]+\])(:(?P<port>[0-9]{1,5}))?")
# That of Ray's server for clients outside; 6379 is the one that nodes join at.
_USUAL_PORT = 10001


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """The keys of `[cluster]`.

    ray: "auto" for the cluster that this machine belongs to, or "ray://HOST:PORT" for one that is
        reached from outside.
    place_timeout_s: how long to wait, while nothing is trained, until a node has room.
    send_files: "auto" sends models through Ray to and from nodes that do not see the run's folder,
        "always" does so in any case.

    Example: `ClusterSettings("auto")`.
    """

    ray: str
    place_timeout_s: float = 300.0
    send_files: SendFiles = "auto"

    @property
    def host_and_port(self) -> tuple[str, int] | None:
        """Where a cluster is reached from outside; None for the one of this machine.

        >>> ClusterSettings("ray://head:10001").host_and_port
        ('head', 10001)
        """
        match = _ADDRESS.fullmatch(self.ray)
        return None if match is None else (match["host"], int(match["port"] or _USUAL_PORT))


ClusterPreflight = Callable[
    [str, Mapping[str, object], ClusterSettings, Path, Hyperparameters], Sequence[Finding]
]
"""What of a model's training runs where: of its target, its settings, the cluster, the folder of
models, and the recipe."""


def check_address(ray: str) -> None:
    """Raise `InvalidSettings` unless it is "auto" or the address of a head node."""
    if ray != "auto" and not _ADDRESS.fullmatch(ray):
        raise InvalidSettings(
            f"{ray!r} is no address of a Ray cluster: write 'auto' on a machine of the cluster, or "
            "'ray://HOST:10001' to reach its head node from outside"
        )


def check_cluster_settings(cluster: ClusterSettings) -> None:
    """Raise `InvalidSettings` for what shows without a connection."""
    check_address(cluster.ray)
    require_extra("ray", "other machines ([cluster])")
