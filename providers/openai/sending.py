"""One request of the chat endpoint: JSON out, a response with its whole body back.

The openai package builds a request from typed options, copies these twice and merges all headers
anew for every call, which takes twice the CPU time of sending it. Headers, URL and timeouts are the
same for all chat requests of a connection, so they are prepared once here. The request that goes
out and the errors that come back are those of the package.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime

import httpx2
from openai import APIConnectionError, APIStatusError, APITimeoutError, AsyncOpenAI

_TRANSPORT_ERRORS = (httpx2.RequestError, ssl.SSLError)


class ChatSender:
    """Posts JSON to one URL, over the connections of `http`, with the headers of `client`.

    `http` is the HTTP client that `client` was made with.

        sender = ChatSender(client, http, "https://api.openai.com/v1/chat/completions")
        response = await sender.post({"model": "gpt-4.1-mini", "messages": messages})
    """

    def __init__(self, client: AsyncOpenAI, http: httpx2.AsyncClient, url: str) -> None:
        self._http = http
        timeout = client.timeout
        read_s = timeout.read if isinstance(timeout, httpx2.Timeout) else timeout
        request = http.build_request(
            "POST", url, headers=_join_headers(client, read_s), timeout=timeout
        )
        self._url = request.url
        self._extensions = request.extensions
        self._headers = request.headers
        # Each request has its own length, and httpx2 adds it to the body.
        del self._headers["content-length"]

    async def post(self, body: Mapping[str, object]) -> httpx2.Response:
        """The response to `body`, read to its end, with a status of 200 to 299.

        Raises the openai package's `APITimeoutError`, `APIConnectionError`, and `APIStatusError`
        for any other status; `ValueError` for a number that JSON does not have.
        """
        request = httpx2.Request(
            "POST",
            self._url,
            headers=self._headers,
            cookies=self._http.cookies,
            content=_ENCODER.encode(body).encode(),
            extensions=self._extensions,
        )
        try:
            response = await self._http.send(request)
        except httpx2.TimeoutException as error:
            raise APITimeoutError(request=request) from error
        except _TRANSPORT_ERRORS as error:
            raise APIConnectionError(request=request) from error
        if not response.is_success:
            raise _make_status_error(response)
        return response


def _join_headers(client: AsyncOpenAI, read_s: float | None) -> dict[str, str]:
    """What the package sends with a first attempt; later mappings replace earlier ones."""
    headers: dict[str, tuple[str, str]] = {}
    for mapping in (client.auth_headers, client.default_headers):
        for name, value in mapping.items():
            # Anything but a text means: leave this header out.
            if isinstance(value, str):
                headers[name.lower()] = (name, value)
            else:
                headers.pop(name.lower(), None)
    joined = dict(headers.values())
    joined.setdefault("x-stainless-retry-count", "0")
    if read_s is not None:
        joined.setdefault("x-stainless-read-timeout", str(read_s))
    return joined


def _make_status_error(response: httpx2.Response) -> APIStatusError:
    """The error for a status, whose `body` is the error that the response's JSON holds."""
    body: object = response.text.strip()
    with suppress(ValueError, RecursionError):
        body = json.loads(response.text)
    if isinstance(body, Mapping):
        body = body.get("error", body)
    return APIStatusError(f"Error code: {response.status_code}", response=response, body=body)


def _encode_other(value: object) -> str:
    # TOML has times, and `extra_body` may hold some.
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} {value!r} cannot be sent as JSON")


_ENCODER = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_encode_other
)
