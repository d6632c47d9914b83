"""What the servers are that a user has started to answer for models of this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from providers import registry
from providers.answer_server import AnswerServer
from providers.errors import ProviderError
from providers.server_identity import ServerIdentity

_PATIENCE_S = 30.0


async def identify_servers(servers: Sequence[AnswerServer]) -> Mapping[str, ServerIdentity]:
    """What each server is, by its address; one that cannot be asked now is left out.

    identities = await identify_servers(config.serving.list_servers())
    """
    found = await asyncio.gather(*(_identify(server) for server in servers))
    named = zip(servers, found, strict=True)
    return {server.address: identity for server, identity in named if identity is not None}


async def _identify(server: AnswerServer) -> ServerIdentity | None:
    # Whether it can be asked is the preflight's business; a run may also go on with the others.
    with suppress(ProviderError, TimeoutError):
        provider = registry.connect(server.address, server.settings, Path())
        try:
            adapters = provider.adapter_server()
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    return await adapters.identify()
            finally:
                await adapters.close()
        finally:
            await provider.close()
    return None
