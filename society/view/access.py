"""Who may see the pages, and what browsers may do with them.

The ASGI middleware around the application guards it. Against other web sites: a Host header that
is not this machine's is refused (DNS rebinding), nothing is shared across origins, and only GET is
answered; where questions can be asked, also a form that holds a secret of these pages. Against
other people: a token, if other machines can reach the server or the user asks for one. Against
hostile text in transcripts: a policy that allows no script but the pages' own.
"""

from __future__ import annotations

import hmac
import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# No inline script or style, so text that escapes the templates' escaping still does nothing.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    # For browsers that know only a part of the policy, and against content that poses as a script.
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_METHODS = ("GET", "HEAD")
# The only addresses that forms are sent to: a question, and the end of its debate.
_FORM_PATHS = ("/ask", "/stop")


def create_token() -> str:
    """A secret for one start of the server: 256 random bits."""
    return secrets.token_urlsafe(32)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class PageAccess:
    """`host` and `port` the server listens on; `token` None where none is asked for."""

    host: str
    port: int
    token: str | None = field(default=None, repr=False)

    @property
    def cookie(self) -> str:
        """Cookies know no ports, so the name has it: two servers on one machine do not collide."""
        return f"society-view-{self.port}"

    def knows(self, host_header: str) -> bool:
        """Whether a Host header names this server rather than a site that points here."""
        name = _without_port(host_header)
        try:
            address = ip_address(name)
        except ValueError:
            return name in self._names()
        # DNS cannot rebind an address in numbers, so any is right if the server listens beyond this
        # machine.
        return address.is_loopback or not is_loopback(self.host)

    def admits(self, given: str | None) -> bool:
        """Whether a token is the right one; takes as long for a wrong one."""
        if self.token is None:
            return True
        # A comparison that stops at the first difference would tell the token byte by byte.
        return hmac.compare_digest((given or "").encode(), self.token.encode())

    def _names(self) -> Iterable[str]:
        if is_loopback(self.host):
            return ("localhost",)
        own = socket.gethostname().lower()
        return ("localhost", own, socket.getfqdn().lower(), f"{own}.local", self.host.lower())


@dataclass(frozen=True, slots=True)
class FormGuard:
    """Tells a form of these pages from one of another web site, whose cookies would be as good.

    `secret` is in the pages' own forms, which no other site can read. What browsers say of a form's
    origin is looked at too, where they say it.
    """

    secret: str = field(default_factory=create_token, repr=False)

    def admits(self, headers: Headers, given: str | None) -> bool:
        """Whether a form was sent by a page of this server."""
        if headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return False
        # "null" is what pages that send no referrer, such as these, say of themselves.
        origin = headers.get("origin", "null")
        if origin != "null" and urlsplit(origin).netloc != headers.get("host"):
            return False
        return hmac.compare_digest((given or "").encode(), self.secret.encode())


class GuardedApp:
    """The application behind `access`, with the headers on every answer.

    `takes_forms`: whether questions may be asked, and stopped, by POST.
    """

    def __init__(self, app: ASGIApp, access: PageAccess, *, takes_forms: bool = False) -> None:
        self._app = app
        self._access = access
        self._takes_forms = takes_forms

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        refusal = self._refusal(scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                # Pages hold a run's texts, which no browser shall keep; scripts and styles hold
                # none.
                static = scope["path"].startswith("/static/")
                headers.setdefault("Cache-Control", "no-cache" if static else "no-store")
            await send(message)

        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if not self._access.knows(headers.get("host", "")):
            return PlainTextResponse(
                "This server does not answer to that host name. Open the address it printed.\n",
                421,
            )
        form = self._takes_forms and scope["path"].endswith(_FORM_PATHS)
        allowed = (*_METHODS, "POST") if form else _METHODS
        if scope["method"] not in allowed:
            return PlainTextResponse(
                "Only GET is answered here.\n", 405, {"Allow": ", ".join(allowed)}
            )
        return None if self._access.token is None else self._without_token(scope, headers)

    def _without_token(self, scope: Scope, headers: Headers) -> Response | None:
        query = parse_qs(scope["query_string"].decode("latin-1"))
        if "token" in query and self._access.admits(query["token"][0]):
            # A cookie takes over, so that the token does not stay in the browser's history.
            entered = RedirectResponse(scope["path"], 303)
            entered.set_cookie(
                self._access.cookie,
                query["token"][0],
                httponly=True,
                samesite="strict",
                max_age=30 * 24 * 3600,
            )
            return entered
        cookies = cookie_parser(headers.get("cookie", ""))
        if self._access.admits(cookies.get(self._access.cookie)):
            return None
        return PlainTextResponse(
            "This page needs a token: open the address that `society view` printed.\n", 401
        )


def _without_port(host_header: str) -> str:
    name = host_header.strip().lower()
    # IPv6 stands in brackets before a port; without brackets, two colons mean that no port follows.
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0].rstrip(".") if name.count(":") < 2 else name
