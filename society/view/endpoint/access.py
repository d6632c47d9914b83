"""Who may ask: a key wherever other machines can reach the server, and no web page of others.

The ASGI middleware around the application. Without a key, the Host header must name this machine,
so that no web site can point its own name here (DNS rebinding); with one, that says enough, and the
server may stand behind a proxy of any name. Nothing is shared across origins.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from society.view.access import PageAccess
from society.view.endpoint.refusals import RequestRefused

# A supervisor asks whether the server is up, and need not be trusted with more.
_OPEN = ("/health",)


@dataclass(frozen=True, slots=True)
class KeyAccess:
    """`key` None asks for none. `page` knows the names of this machine."""

    page: PageAccess
    key: str | None = field(default=None, repr=False)

    def find_refusal(self, path: str, headers: Headers) -> RequestRefused | None:
        """Why a request is not let in; None if it is."""
        if path in _OPEN:
            return None
        if self.key is None:
            # On a loopback address every process of this machine may ask, and no web site.
            if self.page.knows(headers.get("host", "")):
                return None
            return RequestRefused(421, "this server does not answer to that host name")
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # The same time for every wrong key: a shorter one would tell the key byte by byte.
        if hmac.compare_digest(given.strip().encode(), self.key.encode()):
            return None
        said = "the key is wrong" if scheme.lower() == "bearer" else "no key was sent"
        return RequestRefused(
            401,
            f"{said}; send the one that `society serve` was started with, as "
            "Authorization: Bearer KEY",
            code="invalid_api_key",
        )


class GuardedEndpoint:
    """The application behind `access`."""

    def __init__(self, app: ASGIApp, access: KeyAccess) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._access.find_refusal(scope["path"], Headers(scope=scope))
        if refusal is None:
            await self._app(scope, receive, send)
            return
        answer = JSONResponse(refusal.body, refusal.status, dict(refusal.headers))
        await answer(scope, receive, send)
