"""Checks of a server of Tinker's wire before a run.

Lists are asked for; at a server of the user's own, adapters are also made and given back, since
only that shows how many it has room for. It costs nothing there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import tinker

from providers.base import check_capabilities
from providers.errors import ProviderError, TimedOut
from providers.server_address import ServerAddress
from providers.tinker.connection import TinkerConnection
from providers.tinker.errors import VERSIONS, SlotsFull
from providers.tinker.loaded import LoadedModels
from providers.tinker.rendering import open_renderer
from providers.tinker.settings import TinkerSettings
from providers.types import Finding, Need

_SHOWN = 8
_PROBE = {"name": "preflight"}


async def preflight_tinker(
    connect: Callable[[], Awaitable[TinkerConnection]],
    address: ServerAddress,
    settings: TinkerSettings,
    workdir: Path,
    need: Need,
) -> list[Finding]:
    """Everything that can be found out without cost. Raises no `ProviderError`."""
    findings = [*check_capabilities(settings.to_capabilities(), need)]
    if settings.key_variable(address) and not address.is_encrypted and not address.is_private:
        text = f"the key travels unencrypted to {address.host}"
        findings.append(Finding("warning", text, "use an https URL", "encryption"))
    findings += await _check_template(address, settings)
    try:
        connection = await connect()
    except ProviderError as error:
        return [*findings, Finding("error", str(error), check="server")]
    text = f"{address.host} opens sessions for tinker {tinker.__version__}"
    findings.append(Finding("ok", text, check="server"))
    findings += await _check_model(connection)
    if need.finetune and not any(found.level == "error" for found in findings):
        findings += await _check_slots(connection, workdir, need)
    return findings


async def _check_template(address: ServerAddress, settings: TinkerSettings) -> list[Finding]:
    try:
        renderer = await open_renderer(address.model, settings)
    except ProviderError as error:
        remedy = "name the model's folder or its name on the Hugging Face hub as provider.tokenizer"
        return [Finding("error", f"its chat template is not at hand: {error}", remedy, "template")]
    where = settings.tokenizer or address.model
    room = "" if renderer.context is None else f", with a context of {renderer.context} tokens"
    text = f"prompts are written with the chat template of {where}{room}"
    return [Finding("ok", text, check="template")]


async def _check_model(connection: TinkerConnection) -> list[Finding]:
    try:
        offered = await list_models(connection)
    except ProviderError as error:
        text = f"its models cannot be listed: {error}"
        return [Finding("warning", text, VERSIONS, "model")]
    if connection.model in offered:
        return [Finding("ok", f"{connection.server} offers {connection.model}", check="model")]
    if not offered:
        text = f"{connection.server} lists no models, so it is unknown whether this is one"
        return [Finding("warning", text, check="model")]
    near = get_close_matches(connection.model, offered, _SHOWN, 0.3) or offered[:_SHOWN]
    text = f"{connection.server} does not offer {connection.model!r}"
    return [Finding("error", text, f"name one of: {', '.join(near)}", "model")]


async def list_models(connection: TinkerConnection) -> list[str]:
    """The names of the base models that the server offers."""
    service = connection.service
    found: Any = await connection.call(
        "a list of models", lambda: service.get_server_capabilities_async()
    )
    return [str(model.model_name) for model in found.supported_models if model.model_name]


async def _check_slots(connection: TinkerConnection, workdir: Path, need: Need) -> list[Finding]:
    """Whether all adapters of the society fit beside each other, by making them."""
    if not connection.has_slots or not need.adapters:
        return []
    loaded, made = LoadedModels(connection, workdir), 0
    try:
        while made < need.adapters:
            await loaded.create(1, 0, _PROBE)
            made += 1
    except SlotsFull:
        text = (
            f"{connection.server} has slots for {made} more adapters, and this society has "
            f"{need.adapters}"
        )
        remedy = (
            f"start the server with at least {need.adapters + 1} slots, one of which is the base's "
            f"(SkyRL: max_lora_adapters = {need.adapters + 1}), or end its other clients"
        )
        return [Finding("error", text, remedy, "adapters")]
    except TimedOut as error:
        # So does an SDK of another generation, which waits for an answer in a form of its own.
        return [Finding("error", f"no adapter can be made: {error}", VERSIONS, "adapters")]
    except ProviderError as error:
        return [Finding("error", f"no adapter can be made: {error}", check="adapters")]
    finally:
        await loaded.close()
    text = f"{connection.server} has slots for the {need.adapters} adapters"
    return [Finding("ok", text, check="adapters")]
