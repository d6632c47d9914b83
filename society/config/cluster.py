"""Where models are trained and answered, if not on this machine: `[cluster]`."""

from __future__ import annotations

from pydantic import field_validator

from providers.cluster.settings import ClusterSettings, SendFiles, check_address
from providers.errors import InvalidSettings
from society.config.values import Positive, Section


class ClusterSection(Section):
    """Other machines that train, and answer with `serving.engine`, reached through Ray
    ([cluster.md](cluster.md))."""

    ray: str
    """`auto` for the Ray cluster that this machine belongs to, or `ray://HOST:10001` to reach its
    head node from outside."""
    place_timeout_s: Positive = 300.0
    """How long to wait, while nothing is trained, until a node has room for a job or a
    server."""
    send_files: SendFiles = "auto"
    """`auto` sends models through Ray to and from nodes that do not see the run's folder, `always`
    to and from all."""

    @field_validator("ray")
    @classmethod
    def _check_address(cls, ray: str) -> str:
        try:
            check_address(ray)
        except InvalidSettings as error:
            raise ValueError(str(error)) from None
        return ray

    def settings(self) -> ClusterSettings:
        """The section in the terms of `providers`."""
        return ClusterSettings(self.ray, self.place_timeout_s, self.send_files)
