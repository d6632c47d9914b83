"""The web application of `society view`, and the server that runs it."""

from __future__ import annotations

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
from society.view.ask_record import AskRecord
from society.view.asking import AskingDesk, AskLimits
from society.view.catalog import Library
from society.view.debate import NotFound
from society.view.filters import BadAddress
from society.view.handlers import Site, answer_problem
from society.view.handlers_ask import AskPages
from society.view.handlers_beside import BesidePages
from society.view.listener import format_address, open_listener
from society.view.query_cache import QueryCache, TookTooLong
from store.errors import StoreError


def create_app(
    library: Library,
    access: PageAccess,
    cache: QueryCache | None = None,
    desk: AskingDesk | None = None,
) -> ASGIApp:
    """The application over the runs of `library`; without a `desk` nothing can be asked."""
    site = Site(library, cache or QueryCache(), asks=desk is not None)
    besides = BesidePages(library, site.cache)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        site.cache.close()
        if desk is not None:
            desk.close()

    routes = [
        Route("/", site.runs, methods=["GET"]),
        Route("/beside", besides.runs, methods=["GET"]),
        Route("/runs/{run}/compare", besides.debates, methods=["GET"]),
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
        Route("/runs/{run}/report", site.report, methods=["GET"]),
        Route("/runs/{run}/exports", site.exports, methods=["GET"]),
        Route("/runs/{run}/exports/{path:path}", site.exported, methods=["GET"]),
        Route("/runs/{run}/models", site.models, methods=["GET"]),
        Route("/runs/{run}/model", site.model, methods=["GET"]),
        Mount("/static", StaticFiles(directory=str(files("society.view") / "static"))),
        *(AskPages(library, desk).routes if desk is not None else ()),
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
    return GuardedApp(app, access, takes_forms=desk is not None)


def serve_pages(
    library: Library,
    host: str,
    port: int,
    *,
    ask_token: bool,
    say: Callable[[str], None],
    asks: bool | None = None,
    budget_usd: float | None = None,
    record: AskRecord | None = None,
) -> None:
    """Serve the pages until Ctrl-C; port 0 takes a free one.

    A token is required if other machines can reach the server. `asks`: whether visitors may ask the
    runs' societies, None: only if they are on this machine; `budget_usd` is what they may spend
    with each run; `record` keeps what is asked. Raises `ConfigError` if the server cannot listen on
    `host` and `port`, or `record` is a run of another kind, and what opening it raises.
    """
    # Imported late: only serving needs it.
    import uvicorn

    with closing(open_listener(host, port)) as listener:
        bound = int(listener.getsockname()[1])
        token = create_token() if ask_token or not is_loopback(host) else None
        access = PageAccess(host, bound, token)
        asks = is_loopback(host) if asks is None else asks
        if record is not None and not asks:
            raise ConfigError(
                f"--store {record.folder.name} keeps what is asked, and questions are off here; "
                "turn them on by --ask"
            )
        desk = _open_desk(library, AskLimits(budget_usd=budget_usd), say, record) if asks else None
        # No access log: addresses hold the token once, and terminals are shared.
        config = uvicorn.Config(
            create_app(library, access, desk=desk),
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="on",
            timeout_graceful_shutdown=1,
        )
        query = f"?token={token}" if token else ""
        say(f"runs in {library.runs}/: {format_address(host, bound)}/{query}")
        if not is_loopback(host):
            say(
                "anyone who can read that address can read these runs; the connection is plain HTTP"
            )
        say("stop with Ctrl-C")
        uvicorn.Server(config).run(sockets=[listener])


def _open_desk(
    library: Library, limits: AskLimits, say: Callable[[str], None], record: AskRecord | None
) -> AskingDesk:
    """What takes questions; the run that keeps them is made, and shown among the others."""
    desk = AskingDesk(limits, say, record)
    if record is not None:
        desk.prepare_record()
        library.include(record.folder.name)
    return desk
