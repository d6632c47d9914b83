"""The web application of `society view`, and the server that runs it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from importlib.resources import files

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from society.config.load import ConfigError
from society.view.access import GuardedApp, PageAccess, create_token, is_loopback
from society.view.catalog import Library
from society.view.debate import NotFound
from society.view.filters import BadAddress
from society.view.handlers import Site, answer_problem
from society.view.query_cache import QueryCache, TookTooLong
from store.errors import StoreError


def create_app(library: Library, access: PageAccess, cache: QueryCache | None = None) -> ASGIApp:
    """The application over the runs of `library`."""
    site = Site(library, cache or QueryCache())

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        site.cache.close()

    routes = [
        Route("/", site.runs, methods=["GET"]),
        Route("/state", site.state, methods=["GET"]),
        Route("/help", site.help, methods=["GET"]),
        Route("/runs/{run}", site.run, methods=["GET"]),
        Route("/runs/{run}/state", site.run_state, methods=["GET"]),
        Route("/runs/{run}/agents", site.agents, methods=["GET"]),
        Route("/runs/{run}/debates", site.debates, methods=["GET"]),
        Route("/runs/{run}/debate", site.debate, methods=["GET"]),
        Route("/runs/{run}/step", site.step, methods=["GET"]),
        Route("/runs/{run}/turn/{turn_id:int}", site.turn, methods=["GET"]),
        Route("/runs/{run}/text/{turn_id:int}", site.text, methods=["GET"]),
        Route("/runs/{run}/datasets", site.datasets, methods=["GET"]),
        Route("/runs/{run}/dataset", site.dataset, methods=["GET"]),
        Route("/runs/{run}/models", site.models, methods=["GET"]),
        Route("/runs/{run}/model", site.model, methods=["GET"]),
        Mount("/static", StaticFiles(directory=str(files("society.view") / "static"))),
    ]
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={
            BadAddress: answer_problem(400, "Bad address"),
            NotFound: answer_problem(404, "Not found"),
            HTTPException: answer_problem(404, "Not found"),
            TookTooLong: answer_problem(503, "The query took too long"),
            StoreError: site.unreadable,
            Exception: answer_problem(500, "Internal error"),
        },
    )
    return GuardedApp(app, access)


def serve_pages(
    library: Library, host: str, port: int, *, ask_token: bool, say: Callable[[str], None]
) -> None:
    """Serve the pages until Ctrl-C; port 0 takes a free one.

    A token is required if other machines can reach the server. Raises `ConfigError` if the server
    cannot listen on `host` and `port`.
    """
    # Imported late: only serving needs it.
    import uvicorn

    with closing(_open_listener(host, port)) as listener:
        bound = int(listener.getsockname()[1])
        token = create_token() if ask_token or not is_loopback(host) else None
        access = PageAccess(host, bound, token)
        # No access log: addresses hold the token once, and terminals are shared.
        config = uvicorn.Config(
            create_app(library, access),
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="on",
            timeout_graceful_shutdown=1,
        )
        say(f"runs in {library.runs}/: {_format_address(host, bound, token)}")
        if not is_loopback(host):
            say(
                "anyone who can read that address can read these runs; the connection is plain HTTP"
            )
        say("stop with Ctrl-C")
        uvicorn.Server(config).run(sockets=[listener])


def _open_listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    # A server that is stopped and started again gets its port back at once.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # From here on connections queue: a browser that opens the address at once is not refused.
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host}, port {port}: {error}; choose another with --port or --host"
        ) from None
    return listener


def _format_address(host: str, port: int, token: str | None) -> str:
    shown = f"[{host}]" if ":" in host else host
    # These mean every interface and are no address that a browser can open.
    if host in ("0.0.0.0", "::"):
        shown = socket.gethostname()
    query = f"?token={token}" if token else ""
    return f"http://{shown}:{port}/{query}"
