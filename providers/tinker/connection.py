"""One session at a server of Tinker's wire, through the vendor's SDK.

The SDK works in a thread and an event loop of its own, waits without an end, and reads its defaults
from the environment. Here every call has a time limit, ends early if the server has fallen silent,
and raises errors of `providers.errors`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

import httpx
import tinker

from providers.call_threads import CallThreads
from providers.errors import ProviderError, TimedOut, Unreachable, Unsupported
from providers.secrets import Secrets, read_variable
from providers.server_address import ServerAddress
from providers.tinker.errors import VERSIONS, translate_error
from providers.tinker.settings import TinkerSettings, is_hosted
from providers.tinker.transport import CarefulTransport

T = TypeVar("T")

# The newest SDK replaces methods that are the only ones of older SDKs.
warnings.filterwarnings("ignore", "DEPRECATED: ", FutureWarning)

# The most for opening a session, which takes a few short requests.
_OPEN_S = 30.0
_LOOK_S = 0.5
_NO_KEY = "tml-none"


class TinkerConnection:
    """A session. `service` and `rest` are the SDK's clients; `server` names it in messages.

    connection = await open_connection(address, settings)
    answer = await connection.call("a sample", lambda: sampler.sample_async(prompt, 1, how))
    await connection.close()
    """

    def __init__(
        self,
        address: ServerAddress,
        settings: TinkerSettings,
        secrets: Secrets,
        transport: CarefulTransport | None,
        service: Any,
        key: str = _NO_KEY,
    ) -> None:
        self.model = address.model
        self.server = address.host
        self.settings = settings
        self.secrets = secrets
        self.has_slots = not is_hosted(address)
        self.service = service
        self.rest = service.create_rest_client()
        self._url = address.url
        self._transport = transport
        self._headers = {"X-API-Key": key}

    async def call(
        self, what: str, start: Callable[[], Awaitable[T]], timeout_s: float | None = None
    ) -> T:
        """The result of a call of the SDK, or the error of ours that it ended with."""
        limit = self.settings.timeout_s if timeout_s is None else timeout_s
        task = asyncio.ensure_future(_start(start))
        began = time.monotonic()
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=_LOOK_S)
                if not task.done():
                    self._require_alive(what, time.monotonic() - began, limit)
            return task.result()
        except ProviderError:
            raise
        except Exception as error:
            found = translate_error(error, self.secrets, self.server)
            if found is None:
                raise
        finally:
            task.cancel()
        # Raised outside the handler: a chained exception would show the server's unscrubbed words.
        raise found

    async def unload(self, model_id: str) -> None:
        """Give an adapter's slot back; does nothing if the server does not have it."""
        if not self.has_slots:
            return
        # The SDK has no method for it.
        async with httpx.AsyncClient(timeout=10.0, headers=self._headers) as client:
            body = {"model_id": model_id, "type": "unload_model"}
            try:
                await client.post(f"{self._url}/api/v1/unload_model", json=body)
            except httpx.TransportError:
                # A server that is gone holds no slots, and one that is silent frees them in time.
                return

    async def close(self) -> None:
        """End the session. What is in flight goes on at the server."""
        _close_service(self.service)

    def _require_alive(self, what: str, waited_s: float, limit_s: float) -> None:
        if waited_s > limit_s:
            raise TimedOut(
                f"{self.server} has not finished {what} within {limit_s:g} s; raise "
                "provider.timeout_s if it needs longer"
            )
        silent_s = 0.0 if self._transport is None else self._transport.failing_s
        if self._transport is not None and silent_s > self.settings.give_up_after_s:
            raise Unreachable(
                f"{self.server} has not answered for {silent_s:.0f} s "
                f"({self.secrets.quote(self._transport.problem)}); start it again: the run "
                "continues from the last saved states"
            )


async def open_connection(address: ServerAddress, settings: TinkerSettings) -> TinkerConnection:
    """Open a session. Raises `AuthenticationFailed` without a key, `Unreachable`, and `Unsupported`
    if the server does not answer this generation of the SDK."""
    variable = settings.key_variable(address)
    key = read_variable(variable, f"it holds the key for {address.host}") if variable else _NO_KEY
    secrets = Secrets({"key": key} if variable else {})
    transport = CarefulTransport() if _takes_transport() else None
    threads, open_s = CallThreads(1), min(_OPEN_S, settings.timeout_s)
    given_up = threading.Event()
    try:
        opening = threads.run(partial(_open_service, address.url, key, transport, given_up))
        service = await _wait_for_session(opening, transport, open_s, settings.give_up_after_s)
    except ProviderError:
        raise
    except TimeoutError:
        given_up.set()
        found: ProviderError = _explain_silence(address, transport, open_s)
    except Exception as error:
        translated = translate_error(error, secrets, address.host)
        if translated is None:
            raise
        found = translated
    else:
        return TinkerConnection(address, settings, secrets, transport, service, key)
    finally:
        threads.close()
    raise found


async def _wait_for_session(
    opening: Coroutine[Any, Any, T],
    transport: CarefulTransport | None,
    open_s: float,
    give_up_after_s: float,
) -> T:
    """What `opening` returns. Raises `TimeoutError` when it takes too long, and as soon as nobody
    has answered for `give_up_after_s`."""
    task, began = asyncio.ensure_future(opening), time.monotonic()
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=_LOOK_S)
            silent_s = 0.0 if transport is None else transport.failing_s
            late = time.monotonic() - began > open_s or silent_s > give_up_after_s
            if late and not task.done():
                raise TimeoutError
        return task.result()
    finally:
        task.cancel()


def _open_service(
    url: str, key: str, transport: CarefulTransport | None, given_up: threading.Event
) -> Any:
    if "TINKER_LOG" not in os.environ:
        # What fails is told by our errors, and most of what the SDK warns of is repeated.
        logging.getLogger("tinker").setLevel(logging.CRITICAL)
    # Its reports to the server have tracebacks in them; whoever wants them sets it to 1.
    os.environ.setdefault("TINKER_TELEMETRY", "0")
    options: dict[str, Any] = {}
    if transport is not None:
        client = httpx.AsyncClient(transport=transport, timeout=httpx.Timeout(60.0, connect=5.0))
        options = {"http_client": client, "max_retries": 0}
    service = tinker.ServiceClient(base_url=url, api_key=key, **options)
    # Opened here: it blocks.
    assert service.holder is not None
    service.create_rest_client()
    if given_up.is_set():
        _close_service(service)
    return service


def _close_service(service: Any) -> None:
    if hasattr(service, "close"):
        service.close("success")
    else:
        service.holder.close()


def _takes_transport() -> bool:
    """Whether the SDK takes an HTTP client. Later ones number their requests, so that a repeated
    one is recognized by the servers that they are made for."""
    return "base_url" not in inspect.signature(tinker.ServiceClient.__init__).parameters


def _explain_silence(
    address: ServerAddress, transport: CarefulTransport | None, waited_s: float
) -> ProviderError:
    if transport is not None and transport.failing_s > 0:
        return Unreachable(
            f"{address.host} cannot be reached ({transport.problem}); start it, or correct its URL"
        )
    return Unsupported(
        f"{address.host} has not opened a session for tinker {tinker.__version__} within "
        f"{waited_s:g} s, as servers of another generation of the wire do; {VERSIONS}"
    )


async def _start(start: Callable[[], Awaitable[T]]) -> T:
    return await start()
