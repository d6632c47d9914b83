"""The handlers of the pages: what each address asks of a run, and which template shows it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)

from society.runs import listing
from society.runs.folder import RunFolder
from society.view import catalog, debate, debate_list, lineage, overview, pages, search
from society.view.answer_grid import build_answer_grid
from society.view.catalog import Library, RunEntry
from society.view.charts import build_charts
from society.view.cost_curve import read_cost_curve
from society.view.debate import NotFound
from society.view.debate_list import DebateKey
from society.view.filters import BadAddress, Filter, parse_stage, parse_whole
from society.view.headline import find_headline
from society.view.model_files import find_model_files
from society.view.overview import FilterChoices
from society.view.pages import build_address
from society.view.query_cache import QueryCache, TookTooLong
from society.view.run_files import find_export, find_report, list_files
from society.view.sweep_groups import group_runs
from store.errors import StoreError, StoreLocked
from store.reader import Reader

# Seconds to wait for full-scan parts before a page is rendered without them.
_PATIENCE_S = 1.2
_SANDBOX = {"Content-Security-Policy": "sandbox"}
_REPORT_HEADERS = {
    "Content-Security-Policy": "sandbox allow-downloads allow-popups; default-src 'none'; "
    "style-src 'unsafe-inline'; img-src data:; font-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
}


class Site:
    """The handlers of all pages: each asks the cache, then renders one template."""

    def __init__(self, library: Library, cache: QueryCache, *, asks: bool = False) -> None:
        self.library = library
        self.cache = cache
        self._asks = asks

    def _folder(self, request: Request) -> RunFolder:
        return self.library.folder(request.path_params["run"])

    async def _entries(self) -> list[RunEntry]:
        # A run that cannot be read becomes an entry that says why; the others are still listed.
        async def one(folder: RunFolder) -> RunEntry:
            work = partial(catalog.read_entry, folder=folder)
            try:
                return await self.cache.get(folder.database, "entry", work)
            except (StoreError, TookTooLong) as error:
                return catalog.build_unreadable_entry(folder, error)

        entries = await asyncio.gather(*(one(folder) for folder in self.library.folders()))
        # A run that cannot be read has no time; it comes last instead of hiding the page.
        newest = sorted(entries, key=lambda e: e.created_at.timestamp() if e.created_at else 0.0)
        return newest[::-1]

    def _all_versions(self) -> str:
        return "-".join(self.cache.version(folder.database) for folder in self.library.folders())

    async def runs(self, request: Request) -> Response:
        sweeps, entries = group_runs(self.library.runs, await self._entries())
        return _render_page(
            "runs.html.jinja",
            entries=entries,
            sweeps=sweeps,
            folder=self.library.runs,
            state=self._all_versions(),
        )

    async def state(self, request: Request) -> Response:
        return PlainTextResponse(self._all_versions())

    async def help(self, request: Request) -> Response:
        return _render_page("help.html.jinja")

    async def run_state(self, request: Request) -> Response:
        return PlainTextResponse(self.cache.version(self._folder(request).database))

    async def run(self, request: Request) -> Response:
        folder, until = self._folder(request), time.monotonic() + _PATIENCE_S
        # Taken before the queries: what is written meanwhile changes it, so the page loads again.
        state = self.cache.version(folder.database)
        found = await self.cache.get(folder.database, "overview", overview.read_overview)
        if found is None:
            raise NotFound(f"{folder.name} holds no run yet")
        # These read all turns. They are shown once they are known; until then the page says so.
        singles, readings, spent, costs = await asyncio.gather(
            self.cache.get_until(
                folder.database, "singles", overview.read_single_accuracies, until
            ),
            self.cache.get_until(folder.database, "readings", overview.read_readings, until),
            self.cache.get_until(folder.database, "spent", overview.read_spending, until),
            self.cache.get_until(folder.database, "costs", read_cost_curve, until),
        )
        models = await self.cache.get(folder.database, "models", lineage.list_models)
        return _render_page(
            "run.html.jinja",
            run=folder.name,
            found=found,
            notice=listing.read_notice_line(folder) if found.live else None,
            singles=singles,
            readings=readings,
            spent=spent,
            costs=costs if costs is not None and costs.drawable else None,
            models=[model for model in models if model.losses],
            figures=build_charts(found, singles),
            headline=find_headline(found),
            files=list_files(folder),
            asks=self._asks,
            several_tasks=len({row.task for row in found.progress}) > 1,
            state=state,
        )

    async def agents(self, request: Request) -> Response:
        folder, wanted = self._folder(request), Filter.parse(request.query_params)
        until = time.monotonic() + _PATIENCE_S
        choices = await self._choices(folder)
        arms = choices.arms or (choices.main_arm,)
        arm = wanted.arm or (choices.main_arm if choices.main_arm in arms else arms[0])
        split, decoding = wanted.split or "eval", wanted.decoding or "sampled"
        state = self.cache.version(folder.database)
        found = await self.cache.get_until(
            folder.database,
            ("agents", arm, split, decoding),
            partial(overview.read_agents, arm=arm, split=split, decoding=decoding),
            until,
        )
        return _render_page(
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
        page: debate_list.DebateList | None = None
        found: search.SearchResult | None = None
        count: int | None = None
        if wanted.text:
            start = parse_whole(query, "from") or 0
            found = await self.cache.query(
                folder.database, partial(search.search_debates, wanted=wanted, start=start)
            )
        else:
            after, before = _parse_key(query, "after"), _parse_key(query, "before")
            page = await self.cache.query(
                folder.database,
                partial(debate_list.read_page, wanted=wanted, after=after, before=before),
            )
            count = await self.cache.get_until(
                folder.database,
                ("count", wanted),
                partial(debate_list.count_debates, wanted=wanted),
                until,
            )
        return _render_page(
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
        where, question = parse_stage(query), debate.parse_question(query.get("question"))
        within, raw = _parse_list(query), query.get("raw") == "1"
        found = await self.cache.query(
            folder.database, partial(debate.read_debate_page, stage=where, question_id=question)
        )
        return _render_page(
            "debate.html.jinja",
            run=folder.name,
            page=found,
            grid=build_answer_grid(found.debate),
            within=within,
            step=build_address(
                f"/runs/{folder.name}/step", at=found.key.encode(), **{"in": within.query()}
            ),
            ended=query.get("end"),
            raw=raw,
            raw_address=build_address(
                f"/runs/{folder.name}/debate",
                **found.key.stage.params,
                question=found.key.question_id,
                **{"in": query.get("in")},
                raw=None if raw else 1,
            ),
        )

    async def step(self, request: Request) -> Response:
        """Redirect to the next or the previous debate of a list; at its end, to the same debate."""
        folder, query = self._folder(request), request.query_params
        key, within = _parse_key(query, "at"), _parse_list(query)
        if key is None:
            raise BadAddress("the address must name the debate to start from")
        back = query.get("to") == "previous"
        look = search.find_neighbor if within.text else debate_list.find_neighbor
        found = await self.cache.query(
            folder.database, partial(look, wanted=within, key=key, back=back)
        )
        end = None if found else ("first" if back else "last")
        return RedirectResponse(_address_debate(folder, found or key, within, end), 303)

    async def turn(self, request: Request) -> Response:
        folder, turn_id = self._folder(request), request.path_params["turn_id"]
        where, question = await self.cache.query(
            folder.database, partial(debate.find_debate_of_turn, turn_id=turn_id)
        )
        path = build_address(f"/runs/{folder.name}/debate", **where.params, question=question)
        return RedirectResponse(f"{path}#turn-{turn_id}", 303)

    async def text(self, request: Request) -> Response:
        folder, turn_id = self._folder(request), request.path_params["turn_id"]
        text = await self.cache.query(
            folder.database, partial(debate.read_turn_text, turn_id=turn_id)
        )
        # A model's raw response: whatever it holds, the browser must execute nothing of it.
        return PlainTextResponse(text, headers=_SANDBOX)

    async def datasets(self, request: Request) -> Response:
        folder = self._folder(request)
        found = await self.cache.get(folder.database, "datasets", lineage.list_datasets)
        return _render_page("datasets.html.jinja", run=folder.name, datasets=found)

    async def dataset(self, request: Request) -> Response:
        folder, query = self._folder(request), request.query_params
        name, start = query.get("id", ""), parse_whole(query, "from") or 0

        def work(reader: Reader) -> tuple[lineage.DatasetEntry, list[lineage.DatasetRow]]:
            return lineage.read_dataset(reader, name), lineage.list_examples(reader, name, start)

        dataset, rows = await self.cache.query(folder.database, work)
        return _render_page(
            "dataset.html.jinja",
            run=folder.name,
            dataset=dataset,
            rows=rows,
            start=start,
            size=lineage.ROWS,
        )

    async def models(self, request: Request) -> Response:
        folder = self._folder(request)
        found = await self.cache.get(folder.database, "models", lineage.list_models)
        return _render_page("models.html.jinja", run=folder.name, models=found)

    async def model(self, request: Request) -> Response:
        folder, name = self._folder(request), request.query_params.get("id", "")
        found = await self.cache.query(folder.database, partial(lineage.read_model, model_id=name))
        files = find_model_files(folder, found.artifact)
        return _render_page("model.html.jinja", run=folder.name, model=found, files=files)

    async def report(self, request: Request) -> Response:
        path = find_report(self._folder(request))
        # A page that `society report` has written, with a style of its own and without script: in
        # its sandbox it reaches nothing, whatever was put in its place.
        return FileResponse(path, media_type="text/html", headers=_REPORT_HEADERS)

    async def exports(self, request: Request) -> Response:
        folder = self._folder(request)
        return _render_page("exports.html.jinja", run=folder.name, files=list_files(folder))

    async def exported(self, request: Request) -> Response:
        path = find_export(self._folder(request), request.path_params["path"])
        # Saved, never shown: an export holds what models have written.
        return FileResponse(
            path, media_type="application/octet-stream", filename=path.name, headers=_SANDBOX
        )

    async def unreadable(self, request: Request, error: Exception) -> Response:
        run = request.path_params.get("run", "")
        folder = RunFolder(run, self.library.runs / run)
        title = "The run is in use" if isinstance(error, StoreLocked) else "The run cannot be read"
        return _render_page(
            "problem.html.jinja",
            503,
            title=title,
            said=listing.explain_error(folder, error),
            note=listing.read_notice_line(folder) if isinstance(error, StoreLocked) else None,
        )

    async def _choices(self, folder: RunFolder) -> FilterChoices:
        return await self.cache.get(folder.database, "choices", overview.list_choices)


def _parse_key(query: Mapping[str, str], name: str) -> DebateKey | None:
    return DebateKey.decode(query[name]) if query.get(name) else None


def _parse_list(query: Mapping[str, str]) -> Filter:
    """The list that a debate was opened from; if the address names none, the debate's stage."""
    if "in" not in query:
        here = Filter.parse(query)
        return Filter(here.iteration, here.split, here.arm, here.decoding)
    return Filter.parse(dict(parse_qsl(query["in"])))


def _address_debate(folder: RunFolder, key: DebateKey, within: Filter, end: str | None) -> str:
    return build_address(
        f"/runs/{folder.name}/debate",
        **key.stage.params,
        question=key.question_id,
        **{"in": within.query()},
        end=end,
    )


def _render_page(template: str, status: int = 200, **values: object) -> Response:
    return HTMLResponse(pages.render_template(template, **values), status)


def answer_problem(status: int, title: str) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def answer(request: Request, error: Exception) -> Response:
        said = str(error)
        if isinstance(error, HTTPException):
            return _render_page(
                "problem.html.jinja", error.status_code, title=title, said=error.detail
            )
        # The error of a bug may quote paths or data of this machine; the terminal of its user shows
        # it.
        if status == 500:
            said = f"{type(error).__name__}; the terminal shows more"
        return _render_page("problem.html.jinja", status, title=title, said=said)

    return answer
