"""Reading what a vLLM or SGLang server is.

    GET /version                vLLM: its version
    GET /server_info            vLLM in development mode, SGLang: the settings in force
    GET /get_server_info        the same of SGLang before it was renamed
    POST /v1/chat/completions   vLLM: `system_fingerprint`, a hash over version and configuration

From their sources (vllm/entrypoints/serve, python/sglang/srt/entrypoints/http_server.py).
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping

import httpx2

from providers.canary import CANARIES
from providers.errors import ProviderError
from providers.server_identity import ServerIdentity

Ask = Callable[[str, str, Mapping[str, object] | None], Awaitable[httpx2.Response]]
"""Sends a request: method, URL, body."""


async def read_identity(
    ask: Ask, url: str, model: str, engine: str, source: str | None, context_tokens: int | None
) -> ServerIdentity:
    """What the server at `url`, which ends in /v1, tells of itself beside its list of models.

    `model` is the base's name in requests. What the server does not tell is left out.
    """
    root = url.removesuffix("/v1")
    settings = await _read_settings(ask, root, engine)
    version = await _read_object(ask, "GET", f"{root}/version")
    prompt, _ = CANARIES[0]
    # The shortest answer there is: the fingerprint stands in no other place.
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 1,
        "temperature": 0.0,
    }
    answer = await _read_object(ask, "POST", f"{url}/chat/completions", body)
    dtype = _read_text(settings, "dtype")
    return ServerIdentity(
        engine,
        _read_text(version, "version") or _read_text(settings, "version"),
        source,
        context_tokens,
        None if dtype is None else dtype.removeprefix("torch."),
        _read_text(settings, "quantization"),
        _read_text(answer, "system_fingerprint"),
    )


async def _read_settings(ask: Ask, root: str, engine: str) -> Mapping[str, object]:
    """The server's own settings, of which one may be a key: only those that are named are read."""
    if engine == "vllm":
        # As text, its default, the settings could only be guessed from.
        told = await _read_object(ask, "GET", f"{root}/server_info?config_format=json")
        config = told.get("vllm_config")
        found = config.get("model_config") if isinstance(config, dict) else None
        return found if isinstance(found, dict) else {}
    told = await _read_object(ask, "GET", f"{root}/server_info")
    return told or await _read_object(ask, "GET", f"{root}/get_server_info")


async def _read_object(
    ask: Ask, method: str, url: str, body: Mapping[str, object] | None = None
) -> Mapping[str, object]:
    """The object at `url`; an empty one if the server has none there."""
    # A path that is missing, or a moment of trouble, is no reason to refuse a server.
    try:
        response = await ask(method, url, body)
        found = json.loads(response.content) if response.is_success else None
    except (ProviderError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _read_text(facts: Mapping[str, object], name: str) -> str | None:
    value = facts.get(name)
    # "auto" is what was asked for, not what is.
    return value if isinstance(value, str) and value not in ("", "auto") else None
