"""One connection: the openai package on aiohttp, its key and its headers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import httpx2
from openai import AsyncOpenAI, DefaultAioHttpClient

from providers.errors import AuthenticationFailed
from providers.openai.settings import (
    ENV_PREFIX,
    ModelAddress,
    OpenAISettings,
    Secrets,
    read_variable,
)

_CONNECT_S = 30.0
_KEEP_ALIVE_S = 30.0
_SPARE_CONNECTIONS = 16
# Sent where no key is wanted: the package insists on one.
_NO_KEY = "none"


class Connection:
    """A client and what it must keep secret. For one event loop; to be closed.

    Raises `AuthenticationFailed` when made without the key that the settings name. `account` stands
    for server and key without telling the key.
    """

    def __init__(self, address: ModelAddress, settings: OpenAISettings) -> None:
        self.address = address
        key = _read_key(address, settings)
        headers = _resolve_headers(settings.headers)
        self.account = f"{address.url} {_hash_key(key)}"
        if address.is_azure and key:
            headers.setdefault("api-key", key)
        self.client = _make_client(address, settings, key, headers)
        # What the file itself spells out is no secret; all else came from the environment.
        hidden = {
            name: value
            for name, value in self.client._custom_headers.items()
            if isinstance(value, str) and settings.headers.get(name) != value
        }
        self.secrets = Secrets({"key": key, **hidden})

    async def close(self) -> None:
        await self.client.close()


def _make_client(
    address: ModelAddress, settings: OpenAISettings, key: str, headers: Mapping[str, str]
) -> AsyncOpenAI:
    timeout = httpx2.Timeout(settings.timeout_s, connect=min(_CONNECT_S, settings.timeout_s))
    limits = httpx2.Limits(
        max_connections=settings.limits.max_concurrent + _SPARE_CONNECTIONS,
        max_keepalive_connections=settings.limits.max_concurrent,
        keepalive_expiry=_KEEP_ALIVE_S,
    )
    client = AsyncOpenAI(
        api_key=key or _NO_KEY,
        admin_api_key="",
        organization=settings.organization,
        project=settings.project,
        base_url=address.url,
        timeout=timeout,
        max_retries=0,
        default_headers=headers,
        # A redirect would take key and conversation to a server that nobody has named.
        http_client=DefaultAioHttpClient(timeout=timeout, limits=limits, follow_redirects=False),
    )
    if not address.is_openai:
        # The package takes these from the environment, where they are meant for OpenAI.
        client.organization = settings.organization
        client.project = settings.project
        client._custom_headers = headers
    return client


def _read_key(address: ModelAddress, settings: OpenAISettings) -> str:
    variable = settings.key_variable(address)
    if not variable:
        return ""
    key = read_variable(variable, f"it holds the key for {address.host}")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise AuthenticationFailed(
            f"the environment variable {variable} holds something that is no key (spaces, line "
            "breaks or letters outside ASCII); set it to the bare key"
        )
    return key


def _resolve_headers(written: Mapping[str, str]) -> dict[str, str]:
    headers = {}
    for name, value in written.items():
        if variable := _variable(value):
            value = read_variable(variable, f"it holds the value of header {name}")
            if not value.isascii() or not value.isprintable():
                raise AuthenticationFailed(
                    f"the environment variable {variable} holds something that cannot be sent as "
                    f"header {name}; set it to plain text"
                )
        headers[name] = value
    return headers


def _variable(value: str) -> str:
    """The variable that a header's written value names, "" where it is the value itself."""
    return value.removeprefix(ENV_PREFIX) if value.startswith(ENV_PREFIX) else ""


def _hash_key(key: str) -> str:
    """Tells keys apart without holding them."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]
