"""The web application of `society serve`, and the server that runs it."""

from __future__ import annotations

import math
import socket
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from evals import choices
from providers.budget import Budget
from society.runs.folder import RunFolder
from society.runs.status import allow_readers
from society.view.access import PageAccess, create_token, is_loopback
from society.view.endpoint.access import GuardedEndpoint, KeyAccess
from society.view.endpoint.admission import Admission, QueueLimits
from society.view.endpoint.answers import build_model, list_models
from society.view.endpoint.chat import ChatEndpoint, ChatLimits
from society.view.endpoint.forms import AnswerForm, list_forms, refuse_model
from society.view.endpoint.metrics import CONTENT_TYPE, EndpointMetrics
from society.view.endpoint.opening import (
    StoredSociety,
    load_stored_society,
    make_opener,
    open_spending,
)
from society.view.endpoint.record import StoredDebates, UnstoredDebates, open_record
from society.view.endpoint.refusals import RequestRefused
from society.view.endpoint.society import ServedSociety
from society.view.listener import format_address, open_listener
from store.ledger import Store


@dataclass(frozen=True, slots=True)
class EndpointOptions:
    """What the user has chosen. `key` None lets a loopback address go without one, and makes one
    for any other; `grace_s` is how long answers under way may still take at a stop."""

    host: str = "127.0.0.1"
    port: int = 8766
    key: str | None = None
    queue: QueueLimits = field(default_factory=QueueLimits)
    chat: ChatLimits = field(default_factory=ChatLimits)
    grace_s: float = 30.0
    budget_usd: float | None = None
    shows_debate: bool = True


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The handlers beside that of a chat, and what they look at."""

    society: ServedSociety
    forms: Mapping[str, AnswerForm]
    admission: Admission
    metrics: EndpointMetrics
    budget: Budget
    created: int

    async def models(self, request: Request) -> Response:
        """GET /v1/models"""
        return JSONResponse(list_models(self.forms.values(), self.created))

    async def model(self, request: Request) -> Response:
        """GET /v1/models/ID"""
        form = self.forms.get(request.path_params["model"])
        if form is None:
            refusal = refuse_model(request.path_params["model"], self.forms)
            return JSONResponse(refusal.body, refusal.status, dict(refusal.headers))
        return JSONResponse(build_model(form, self.created))

    async def health(self, request: Request) -> Response:
        """GET /health: the server is up; its models are asked for nothing."""
        return JSONResponse({"status": "ok"})

    async def figures(self, request: Request) -> Response:
        """GET /metrics"""
        text = self.metrics.format(
            {
                "society_requests_running": float(self.admission.running),
                "society_requests_waiting": float(self.admission.waiting),
                "society_spent_usd": self.budget.spent_usd,
            }
        )
        return PlainTextResponse(text, media_type=CONTENT_TYPE)


def create_app(endpoint: Endpoint, chat: ChatEndpoint, access: KeyAccess) -> ASGIApp:
    """The application: OpenAI's chat completions and models, health and metrics."""
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/models", endpoint.models, methods=["GET"]),
            Route("/v1/models/{model:path}", endpoint.model, methods=["GET"]),
            Route("/health", endpoint.health, methods=["GET"]),
            Route("/metrics", endpoint.figures, methods=["GET"]),
        ],
        exception_handlers={HTTPException: _answer_unknown},
    )
    return GuardedEndpoint(app, access)


async def _answer_unknown(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    refusal = RequestRefused(
        status,
        f"{request.method} {request.url.path[:80]} is not answered here; there are "
        "POST /v1/chat/completions, GET /v1/models, GET /health and GET /metrics",
        code="unknown_url",
    )
    return JSONResponse(refusal.body, status, dict(refusal.headers))


async def serve_society(
    folder: RunFolder,
    options: EndpointOptions,
    *,
    iteration: int | None = None,
    record: RunFolder | None = None,
    say: Callable[[str], None],
    tell: Callable[[str], None],
    on_start: Callable[[Callable[[], None], int], None] = lambda stop, port: None,
) -> None:
    """Serve a run's society until Ctrl-C or SIGTERM; answers under way may end.

    `record` is where turns are stored. `say` gets the address, `tell` what happens meanwhile;
    `on_start` gets what stops the server, and its port. Raises `ConfigError` if the server cannot
    listen, and what opening the run raises, before anything is answered.
    """
    async with AsyncExitStack() as stack:
        # The port first: a model takes a while to load, and would be loaded in vain.
        listener = stack.enter_context(closing(open_listener(options.host, options.port)))
        port = int(listener.getsockname()[1])
        stored = await load_stored_society(folder, iteration)
        forms = list_forms(stored.arm, stored.distilled)
        store: Store | None = None
        if record is not None:
            store = open_record(
                record, stored.config, stored.arm, forms.values(), list(stored.models)
            )
            stack.callback(store.close)
            # So that `society sql` reads it while the server writes.
            stack.enter_context(allow_readers(record, store, lambda text: None))
        budget, put_under = open_spending(stored, store, options.budget_usd)
        debates = (
            UnstoredDebates() if store is None else StoredDebates(store, stored.config.task.name)
        )
        society = ServedSociety(stored.run, make_opener(stored, put_under, tell), debates)
        stack.push_async_callback(society.close)
        await society.open()
        admission, metrics = Admission(options.queue), EndpointMetrics()
        chat = ChatEndpoint(
            society, forms, admission, metrics, options.chat, shows_debate=options.shows_debate
        )
        key = options.key or (None if is_loopback(options.host) else create_token())
        access = KeyAccess(PageAccess(options.host, port, None), key)
        endpoint = Endpoint(society, forms, admission, metrics, budget, stored.created)
        app = create_app(endpoint, chat, access)
        _announce(say, options, stored, port, key)
        await _run_server(app, listener, options.grace_s, lambda stop: on_start(stop, port))


def _announce(
    say: Callable[[str], None],
    options: EndpointOptions,
    stored: StoredSociety,
    port: int,
    key: str | None,
) -> None:
    """Say where the society answers, and with which key."""
    who = choices.name_society(stored.run.iteration)
    say(f"{who} of run {stored.folder.name} answers at {format_address(options.host, port)}/v1")
    if key is not None and options.key is None:
        say(f"key: {key}")
    if not is_loopback(options.host):
        say("anyone with the key can ask it; the connection is plain HTTP")
    say("stop with Ctrl-C")


async def _run_server(
    app: ASGIApp,
    listener: socket.socket,
    grace_s: float,
    on_start: Callable[[Callable[[], None]], None],
) -> None:
    # Imported late: only serving needs it.
    import uvicorn

    config = uvicorn.Config(
        app,
        # No access log: what people ask is nobody's business, and figures are at /metrics.
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        # uvicorn counts whole seconds.
        timeout_graceful_shutdown=math.ceil(grace_s),
    )
    server = uvicorn.Server(config)

    def stop() -> None:
        server.should_exit = True

    on_start(stop)
    # Its first signal closes the listener and lets answers end, its second one does not wait.
    await server.serve(sockets=[listener])
