"""The contract of a running server whose adapters can be changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from providers.server_identity import ServerIdentity
from providers.types import Finding, LoadedAdapter


class AdapterServer(Protocol):
    """A running server whose adapters can be changed. Raises only errors of `providers.errors`."""

    @property
    def scores_texts(self) -> bool:
        """Whether a server of its kind can give log-probabilities of a given text; known once
        `list_loaded` has returned."""

    async def list_loaded(self) -> Sequence[LoadedAdapter]:
        """Every adapter the server has now, from all its clients."""

    async def load(self, name: str, path: str) -> None:
        """Load the folder at `path` on the server's disk; returns once the server lists it.

        Raises `Unsupported` if the server refuses, saying how to start it.
        """

    async def unload(self, name: str) -> None:
        """Let the server forget an adapter; does nothing if the server does not have it."""

    def model_name(self, name: str) -> str:
        """What a request has to name as its model to be answered with adapter `name`."""

    async def preflight(self) -> Sequence[Finding]:
        """Whether adapters can be loaded, as far as it shows without loading one."""

    async def identify(self) -> ServerIdentity:
        """What the server is, as far as it tells; asks it for one token."""

    async def close(self) -> None:
        """Close the connection; the adapters stay."""
