"""One connection to a server: the openai package on aiohttp, with its key and its headers."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from types import MappingProxyType

import httpx2
from openai import VERSION, AsyncOpenAI, DefaultAioHttpClient, Omit

from providers.errors import AuthenticationFailed
from providers.openai.deployments import name_deployment
from providers.openai.sending import ChatSender
from providers.openai.settings import ENV_PREFIX, ModelAddress, OpenAISettings
from providers.secrets import Secrets, read_variable
from providers.types import ModelRef

_CONNECT_S = 30.0
_KEEP_ALIVE_S = 30.0
_SPARE_CONNECTIONS = 16
# The package refuses to start without a key, so servers that need none get this text.
_NO_KEY = "none"
_CUSTOM_HEADERS = "OPENAI_CUSTOM_HEADERS"


class _Client(AsyncOpenAI):
    """An `AsyncOpenAI` that sends exactly the headers in `extra_headers` besides its own.

    The package adds everything in OPENAI_CUSTOM_HEADERS to the requests of every client. Those
    headers are meant for OpenAI, and may contain a key, so no other server may get them.
    """

    extra_headers: Mapping[str, str] = MappingProxyType({})

    @property
    def default_headers(self) -> dict[str, str | Omit]:
        return {
            "Accept": "application/json",
            "Content-Type": "application/json",
            "User-Agent": f"{AsyncOpenAI.__name__}/Python {VERSION}",
            **self.platform_headers(),
            "OpenAI-Organization": Omit() if self.organization is None else self.organization,
            "OpenAI-Project": Omit() if self.project is None else self.project,
            **self.extra_headers,
        }


class Connection:
    """A client, and the values it must keep secret. Use it in one event loop and close it.

    `account` identifies server and key without revealing the key. Raises `AuthenticationFailed`
    if the key that the settings name is missing or malformed.

        settings = OpenAISettings(api_key_env="")
        connection = Connection(parse_address("+http://127.0.0.1:8000/v1:m"), settings)
    """

    def __init__(self, address: ModelAddress, settings: OpenAISettings) -> None:
        self.address = address
        self._deploys = address.is_azure or settings.deployment is not None
        key = _read_key(address, settings)
        headers = _resolve_headers(settings.headers)
        if address.is_openai:
            headers = _read_custom_headers(headers) | headers
        self.account = f"{address.url} {_hash_key(key)}"
        # Azure reads the key from this header; a user's own header of that name takes precedence.
        if address.is_azure and key:
            headers.setdefault("api-key", key)
        self._http = _make_http_client(settings)
        self.client = _make_client(address, settings, key, headers, self._http)
        # A value that the experiment file spells out is no secret; the others come from the
        # environment and may be one.
        hidden = {n: value for n, value in headers.items() if settings.headers.get(n) != value}
        self.secrets = Secrets({"key": key, **hidden})

    def name_model(self, model: ModelRef) -> str:
        """What requests call a model: the base, a tuned model's id, or at Azure its deployment."""
        if model.artifact is None:
            return self.address.model
        return name_deployment(model.artifact) if self._deploys else model.artifact

    @property
    def auth_headers(self) -> dict[str, str]:
        """What a client of another kind must send to be accepted; contains secrets."""
        return {**self.client.auth_headers, **self.client.extra_headers}

    def make_sender(self, url: str) -> ChatSender:
        """What posts to `url` over this connection."""
        return ChatSender(self.client, self._http, url)

    async def close(self) -> None:
        await self.client.close()


def _make_http_client(settings: OpenAISettings) -> httpx2.AsyncClient:
    timeout = httpx2.Timeout(settings.timeout_s, connect=min(_CONNECT_S, settings.timeout_s))
    # Connections to spare for the few calls about files and jobs, which bypass the limiter.
    limits = httpx2.Limits(
        max_connections=settings.limits.max_concurrent + _SPARE_CONNECTIONS,
        max_keepalive_connections=settings.limits.max_concurrent,
        keepalive_expiry=_KEEP_ALIVE_S,
    )
    # A redirect would send key and conversation to a server that the user did not name.
    return DefaultAioHttpClient(timeout=timeout, limits=limits, follow_redirects=False)


def _make_client(
    address: ModelAddress,
    settings: OpenAISettings,
    key: str,
    headers: Mapping[str, str],
    http: httpx2.AsyncClient,
) -> _Client:
    client = _Client(
        api_key=key or _NO_KEY,
        admin_api_key="",
        organization=settings.organization,
        project=settings.project,
        base_url=address.url,
        timeout=http.timeout,
        # The limiter and `Caller` retry. A retry here would repeat requests that create jobs.
        max_retries=0,
        http_client=http,
    )
    client.extra_headers = headers
    if not address.is_openai:
        # The package has taken these from the environment, where they are meant for OpenAI.
        client.organization = settings.organization
        client.project = settings.project
    return client


def _read_key(address: ModelAddress, settings: OpenAISettings) -> str:
    variable = settings.key_variable(address)
    if not variable:
        return ""
    key = read_variable(variable, f"it holds the key for {address.host}")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise AuthenticationFailed(
            f"the environment variable {variable} contains spaces, line breaks or letters outside "
            "ASCII, which no key does; set it to the bare key"
        )
    return key


def _resolve_headers(written: Mapping[str, str]) -> dict[str, str]:
    """The headers of the settings, with "env:NAME" replaced by the variable's value."""
    headers = {}
    for name, value in written.items():
        if value.startswith(ENV_PREFIX):
            variable = value.removeprefix(ENV_PREFIX)
            value = read_variable(variable, f"it holds the value of header {name}")
            if not value.isascii() or not value.isprintable():
                raise AuthenticationFailed(
                    f"the environment variable {variable} holds something that cannot be sent as "
                    f"header {name}; set it to plain text"
                )
        headers[name] = value
    return headers


def _read_custom_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers in OPENAI_CUSTOM_HEADERS, one "Name: value" per line, that `headers` lacks."""
    given = {name.lower() for name in headers}
    lines = (line.partition(":") for line in os.environ.get(_CUSTOM_HEADERS, "").split("\n"))
    found = {name.strip(): value.strip() for name, colon, value in lines if colon}
    return {name: value for name, value in found.items() if name.lower() not in given}


def _hash_key(key: str) -> str:
    """Tells keys apart without holding them."""
    # Breakers and limiters are found by it, and it may appear in a repr.
    return hashlib.sha256(key.encode()).hexdigest()[:16]
