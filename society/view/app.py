"""The pages by their addresses. Every handler asks the desk, then renders one template."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from society.runs.folder import RunFolder
from society.view import catalogue, debate, debates, lineage, overview, pages, search
from society.view.access import Access, Guarded
from society.view.asking import Desk, TookTooLong
from society.view.catalogue import Library, RunEntry
from society.view.debate import NotFound
from society.view.debates import DebateKey
from society.view.figures import figures
from society.view.filters import BadAddress, Filter, stage, whole
from society.view.overview import Choices
from society.view.pages import address
from store.errors import StoreError, StoreLocked
from store.reader import Reader

# After how long a page is shown without its parts that go through all turns.
_PATIENCE_S = 1.2


def create(library: Library, access: Access, desk: Desk | None = None) -> ASGIApp:
    """The application over the runs of `library`."""
    site = _Site(library, desk or Desk())

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        site.desk.close()

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
            BadAddress: _problem(400, "That address cannot be meant"),
            NotFound: _problem(404, "Not here"),
            HTTPException: _problem(404, "Not here"),
            TookTooLong: _problem(503, "That took too long"),
            StoreError: site.unreadable,
            Exception: _problem(500, "A fault in society"),
        },
    )
    return Guarded(app, access)


class _Site:
    def __init__(self, library: Library, desk: Desk) -> None:
        self.library = library
        self.desk = desk

    def _folder(self, request: Request) -> RunFolder:
        return self.library.folder(request.path_params["run"])

    async def _entries(self) -> list[RunEntry]:
        async def one(folder: RunFolder) -> RunEntry:
            work = partial(catalogue.entry, folder=folder)
            try:
                return await self.desk.remembered(folder.database, "entry", work)
            except (StoreError, TookTooLong) as error:
                return catalogue.without_answer(folder, error)

        entries = await asyncio.gather(*(one(folder) for folder in self.library.folders()))
        newest = sorted(entries, key=lambda e: e.created_at.timestamp() if e.created_at else 0.0)
        return newest[::-1]

    def _all_versions(self) -> str:
        return "-".join(self.desk.version(folder.database) for folder in self.library.folders())

    async def runs(self, request: Request) -> Response:
        entries = await self._entries()
        return _page(
            "runs.html.jinja", entries=entries, folder=self.library.runs, state=self._all_versions()
        )

    async def state(self, request: Request) -> Response:
        return PlainTextResponse(self._all_versions())

    async def help(self, request: Request) -> Response:
        return _page("help.html.jinja")

    async def run_state(self, request: Request) -> Response:
        return PlainTextResponse(self.desk.version(self._folder(request).database))

    async def run(self, request: Request) -> Response:
        folder, until = self._folder(request), time.monotonic() + _PATIENCE_S
        state = self.desk.version(folder.database)
        found = await self.desk.remembered(folder.database, "overview", overview.overview)
        if found is None:
            raise NotFound(f"{folder.name} holds no run yet")
        singles, readings, spent = await asyncio.gather(
            self.desk.soon(folder.database, "singles", overview.singles, until),
            self.desk.soon(folder.database, "readings", overview.readings, until),
            self.desk.soon(folder.database, "spent", overview.spent, until),
        )
        models = await self.desk.remembered(folder.database, "models", lineage.models)
        return _page(
            "run.html.jinja",
            run=folder.name,
            found=found,
            notice=catalogue.notice(folder) if found.live else None,
            singles=singles,
            readings=readings,
            spent=spent,
            models=[model for model in models if model.losses],
            figures=figures(found, singles),
            several_tasks=len({row.task for row in found.progress}) > 1,
            state=state,
        )

    async def agents(self, request: Request) -> Response:
        folder, wanted = self._folder(request), Filter.parse(request.query_params)
        until = time.monotonic() + _PATIENCE_S
        arms = (await self._choices(folder)).arms or ("multiagent",)
        arm = wanted.arm or ("multiagent" if "multiagent" in arms else arms[0])
        split, decoding = wanted.split or "eval", wanted.decoding or "sampled"
        state = self.desk.version(folder.database)
        found = await self.desk.soon(
            folder.database,
            ("agents", arm, split, decoding),
            partial(overview.agents, arm=arm, split=split, decoding=decoding),
            until,
        )
        return _page(
            "agents.html.jinja",
            run=folder.name,
            rows=found,
            arms=arms,
            arm=arm,
            split=split,
            decoding=decoding,
            state=state,
        )

    async def debates(self, request: Request) -> Response:
        folder, query = self._folder(request), request.query_params
        wanted, until = Filter.parse(query), time.monotonic() + _PATIENCE_S
        choices = await self._choices(folder)
        page: debates.Page | None = None
        found: search.Found | None = None
        count: int | None = None
        if wanted.text:
            start = whole(query, "from") or 0
            found = await self.desk.ask(
                folder.database, partial(search.search, wanted=wanted, start=start)
            )
        else:
            after, before = _place(query, "after"), _place(query, "before")
            page = await self.desk.ask(
                folder.database,
                partial(debates.page, wanted=wanted, after=after, before=before),
            )
            count = await self.desk.soon(
                folder.database, ("count", wanted), partial(debates.count, wanted=wanted), until
            )
        return _page(
            "debates.html.jinja",
            run=folder.name,
            wanted=wanted,
            choices=choices,
            page=page,
            found=found,
            count=count,
        )

    async def debate(self, request: Request) -> Response:
        folder, query = self._folder(request), request.query_params
        where, question = stage(query), debate.asked(query.get("question"))
        within = _within(query)
        found = await self.desk.ask(
            folder.database, partial(debate.read, stage=where, question_id=question)
        )
        return _page(
            "debate.html.jinja",
            run=folder.name,
            debate=found,
            within=within,
            step=address(
                f"/runs/{folder.name}/step", at=found.key.encoded(), **{"in": within.query()}
            ),
            ended=query.get("end"),
        )

    async def step(self, request: Request) -> Response:
        """To the next debate of a list, or the one before; back to the same at its end."""
        folder, query = self._folder(request), request.query_params
        key, within = _place(query, "at"), _within(query)
        if key is None:
            raise BadAddress("the address must name a debate to go on from")
        back = query.get("to") == "previous"
        look = search.neighbour if within.text else debates.neighbour
        found = await self.desk.ask(
            folder.database, partial(look, wanted=within, key=key, back=back)
        )
        end = None if found else ("first" if back else "last")
        return RedirectResponse(_debate_address(folder, found or key, within, end), 303)

    async def turn(self, request: Request) -> Response:
        folder, turn_id = self._folder(request), request.path_params["turn_id"]
        where, question = await self.desk.ask(
            folder.database, partial(debate.of_turn, turn_id=turn_id)
        )
        path = address(f"/runs/{folder.name}/debate", **where.params, question=question)
        return RedirectResponse(f"{path}#turn-{turn_id}", 303)

    async def text(self, request: Request) -> Response:
        folder, turn_id = self._folder(request), request.path_params["turn_id"]
        text = await self.desk.ask(folder.database, partial(debate.turn_text, turn_id=turn_id))
        return PlainTextResponse(text, headers={"Content-Security-Policy": "sandbox"})

    async def datasets(self, request: Request) -> Response:
        folder = self._folder(request)
        found = await self.desk.remembered(folder.database, "datasets", lineage.datasets)
        return _page("datasets.html.jinja", run=folder.name, datasets=found)

    async def dataset(self, request: Request) -> Response:
        folder, query = self._folder(request), request.query_params
        name, start = query.get("id", ""), whole(query, "from") or 0

        def work(reader: Reader) -> tuple[lineage.DatasetEntry, list[lineage.Example]]:
            return lineage.dataset(reader, name), lineage.examples(reader, name, start)

        dataset, rows = await self.desk.ask(folder.database, work)
        return _page(
            "dataset.html.jinja",
            run=folder.name,
            dataset=dataset,
            rows=rows,
            start=start,
            size=lineage.ROWS,
        )

    async def models(self, request: Request) -> Response:
        folder = self._folder(request)
        found = await self.desk.remembered(folder.database, "models", lineage.models)
        return _page("models.html.jinja", run=folder.name, models=found)

    async def model(self, request: Request) -> Response:
        folder, name = self._folder(request), request.query_params.get("id", "")
        found = await self.desk.ask(folder.database, partial(lineage.model, model_id=name))
        return _page("model.html.jinja", run=folder.name, model=found)

    async def unreadable(self, request: Request, error: Exception) -> Response:
        run = request.path_params.get("run", "")
        folder = RunFolder(run, self.library.runs / run)
        title = "The run is in use" if isinstance(error, StoreLocked) else "The run cannot be read"
        return _page(
            "problem.html.jinja",
            503,
            title=title,
            said=catalogue.reason(folder, error),
            note=catalogue.notice(folder) if isinstance(error, StoreLocked) else None,
        )

    async def _choices(self, folder: RunFolder) -> Choices:
        return await self.desk.remembered(folder.database, "choices", overview.choices)


def _place(query: Mapping[str, str], name: str) -> DebateKey | None:
    return DebateKey.decoded(query[name]) if query.get(name) else None


def _within(query: Mapping[str, str]) -> Filter:
    """The list that a debate was opened from; on its own, it is one of its stage."""
    if "in" not in query:
        here = Filter.parse(query)
        return Filter(here.iteration, here.split, here.arm, here.decoding)
    return Filter.parse(dict(parse_qsl(query["in"])))


def _debate_address(folder: RunFolder, key: DebateKey, within: Filter, end: str | None) -> str:
    return address(
        f"/runs/{folder.name}/debate",
        **key.stage.params,
        question=key.question_id,
        **{"in": within.query()},
        end=end,
    )


def _page(template: str, status: int = 200, **values: object) -> Response:
    return HTMLResponse(pages.render(template, **values), status)


def _problem(status: int, title: str) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def answer(request: Request, error: Exception) -> Response:
        said = str(error)
        if isinstance(error, HTTPException):
            return _page("problem.html.jinja", error.status_code, title=title, said=error.detail)
        if status == 500:
            said = f"{type(error).__name__}; the terminal shows more"
        return _page("problem.html.jinja", status, title=title, said=said)

    return answer
