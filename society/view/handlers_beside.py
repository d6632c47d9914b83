"""The handlers of the pages that show two or more things beside each other."""

from __future__ import annotations

import asyncio
from functools import partial

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from society.view import beside, debate, overview, pages
from society.view.catalog import Library
from society.view.debate_list import DebateKey
from society.view.drawing import find_scale
from society.view.filters import BadAddress, parse_stage
from society.view.query_cache import QueryCache


class BesidePages:
    """Runs beside each other, and debates on one question beside each other."""

    def __init__(self, library: Library, cache: QueryCache) -> None:
        self._library = library
        self._cache = cache

    async def runs(self, request: Request) -> Response:
        names = list(dict.fromkeys(request.query_params.getlist("run")))
        if len(names) > beside.MOST_RUNS:
            raise BadAddress(f"up to {beside.MOST_RUNS} runs fit, not {len(names)}")
        folders = [self._library.folder(name) for name in names]
        found = await asyncio.gather(
            *(self._cache.get(f.database, "overview", overview.read_overview) for f in folders)
        )
        named = zip(names, found, strict=True)
        columns = beside.build_columns({name: one for name, one in named if one is not None})
        curves = [curve for curve in beside.list_run_curves(columns) if curve.points]
        page = pages.render_template(
            "beside.html.jinja",
            columns=columns,
            curves=curves,
            scale=find_scale(curves) if curves else None,
            arms=beside.list_arm_rows(columns),
            differences=beside.list_differences(columns),
            there=[folder.name for folder in self._library.folders()],
            names=names,
            most=beside.MOST_RUNS,
        )
        return HTMLResponse(page)

    async def debates(self, request: Request) -> Response:
        """One question: the debate of the address, and another one of this or another run."""
        folder, query = self._library.folder(request.path_params["run"]), request.query_params
        # A form names the debate in one value: an identifier may hold what no form can send.
        key = DebateKey.decode(query["at"]) if "at" in query else None
        stage = key.stage if key else parse_stage(query)
        question = key.question_id if key else debate.parse_question(query.get("question"))
        other = self._library.folder(query.get("beside_run") or folder.name)
        wanted = beside.decode_stage(query.get("beside"))
        near, raw = (folder.name, stage), query.get("raw") == "1"
        left, right = await asyncio.gather(
            *(
                self._cache.query(
                    of.database,
                    partial(
                        beside.read_side, run=of.name, question_id=question, stage=of_stage,
                        near=near,
                    ),
                )
                for of, of_stage in ((folder, stage), (other, wanted))
            )
        )  # fmt: skip
        if left.debate is None:
            raise debate.NotFound(f"no debate on question {question!r} in that stage")
        page = pages.render_template(
            "compare.html.jinja",
            run=folder.name,
            key=DebateKey(stage, left.debate.position, question),
            raw=raw,
            raw_address=pages.build_address(
                f"/runs/{folder.name}/compare",
                **stage.params,
                question=question,
                beside_run=query.get("beside_run"),
                beside=query.get("beside"),
                raw=None if raw else 1,
            ),
            question_id=question,
            left=left,
            right=right,
            rounds=beside.pair_rounds(left, right),
            encode=beside.encode_stage,
            runs=[one.name for one in self._library.folders()],
        )
        return HTMLResponse(page)
