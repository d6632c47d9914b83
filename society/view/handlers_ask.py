"""The handlers of the pages where a run's society is asked, and its debate watched or stopped."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from evals.stored_run import NothingStored
from society.runs.folder import RunFolder
from society.view import pages
from society.view.access import FormGuard
from society.view.askable import AskableRun, read_askable
from society.view.asked import AskedQuestion
from society.view.asking import AskingDesk, AskRefused
from society.view.catalog import Library
from society.view.debate import NotFound

MOST_CHARACTERS = 20_000
# A character takes up to twelve bytes in a form.
_MOST_BYTES = 12 * MOST_CHARACTERS + 4096
# A debate whose calls are cancelled ends at once, but in another thread.
_ENDING_S = 2.0
_FOREIGN_FORM = (
    "this form is of another site, or of an earlier start of the viewer; send it once more from "
    "here"
)


@dataclass(frozen=True, slots=True)
class _SentForm:
    question: str = ""
    form: str = ""
    secret: str = ""


class AskPages:
    """The form for a question, and the page of one that was asked."""

    def __init__(self, library: Library, desk: AskingDesk) -> None:
        self._library = library
        self._desk = desk
        self._guard = FormGuard()

    @property
    def routes(self) -> list[Route]:
        return [
            Route("/runs/{run}/ask", self.form, methods=["GET"]),
            Route("/runs/{run}/ask", self.ask, methods=["POST"]),
            Route("/runs/{run}/asked/{asked}", self.asked, methods=["GET"]),
            Route("/runs/{run}/asked/{asked}/state", self.state, methods=["GET"]),
            Route("/runs/{run}/asked/{asked}/stop", self.stop, methods=["POST"]),
        ]

    async def form(self, request: Request) -> Response:
        folder = self._library.folder(request.path_params["run"])
        return self._render_form(folder, await self._read_askable(folder))

    async def ask(self, request: Request) -> Response:
        """Begin a debate, and lead to its page; what cannot be asked stays in the form."""
        folder = self._library.folder(request.path_params["run"])
        askable, sent = await self._read_askable(folder), _SentForm()
        try:
            sent = await _read_form(request)
            if not self._guard.admits(request.headers, sent.secret):
                raise AskRefused(403, _FOREIGN_FORM)
            # Nothing was offered to be sent, but the form may be from before its models were lost.
            if askable.obstacle is not None:
                raise AskRefused(409, askable.obstacle)
            if sent.form not in askable.forms:
                raise AskRefused(
                    400, f"no way to answer {sent.form[:80]!r}; choose {', '.join(askable.forms)}"
                )
            asked = self._desk.ask(folder, _check_question(sent.question), sent.form)
        except AskRefused as refusal:
            return self._render_form(folder, askable, sent, refusal)
        return RedirectResponse(f"/runs/{folder.name}/asked/{asked.asked_id}", 303)

    async def asked(self, request: Request) -> Response:
        return self._render_asked(self._find(request))

    async def stop(self, request: Request) -> Response:
        """End a debate, and lead to its page."""
        asked = self._find(request)
        try:
            sent = await _read_form(request)
            if not self._guard.admits(request.headers, sent.secret):
                raise AskRefused(403, _FOREIGN_FORM)
        except AskRefused as refusal:
            return self._render_asked(asked, refusal)
        self._desk.stop(asked)
        # So that the page shows the end without script, too.
        await asyncio.to_thread(asked.wait, _ENDING_S)
        return RedirectResponse(f"/runs/{asked.run}/asked/{asked.asked_id}", 303)

    async def state(self, request: Request) -> Response:
        return PlainTextResponse(self._find(request).version)

    def _render_asked(self, asked: AskedQuestion, refusal: AskRefused | None = None) -> Response:
        # Taken first: what comes meanwhile changes it, so the page loads again.
        state = asked.version
        page = pages.render_template(
            "asked.html.jinja",
            run=asked.run,
            asked=asked,
            ended=asked.ended,
            state=state,
            rounds=asked.rounds,
            refusal=refusal,
            secret=self._guard.secret,
            spent=self._desk.read_spent(asked.run),
            budget=self._desk.limits.budget_usd,
        )
        return HTMLResponse(page, refusal.status if refusal else 200)

    def _find(self, request: Request) -> AskedQuestion:
        asked = self._desk.find(request.path_params["run"], request.path_params["asked"])
        if asked is None:
            raise NotFound(
                "no such question: they are kept in memory, the newest of them, until the viewer "
                "is stopped"
            )
        return asked

    async def _read_askable(self, folder: RunFolder) -> AskableRun:
        # Not read: it may be the run that keeps the questions, which this process writes to.
        if (obstacle := self._desk.find_obstacle(folder.name)) is not None:
            return AskableRun("", (), paid=False, obstacle=obstacle)
        try:
            # Off the event loop, since it reads the run's database.
            return await asyncio.to_thread(read_askable, folder, self._desk.limits.budget_usd)
        except NothingStored as error:
            raise NotFound(str(error)) from None

    def _render_form(
        self,
        folder: RunFolder,
        askable: AskableRun,
        sent: _SentForm | None = None,
        refusal: AskRefused | None = None,
    ) -> Response:
        page = pages.render_template(
            "ask.html.jinja",
            run=folder.name,
            askable=askable,
            sent=sent or _SentForm(),
            refusal=refusal,
            secret=self._guard.secret,
            most=MOST_CHARACTERS,
            earlier=self._desk.list_asked(folder.name),
            budget=self._desk.limits.budget_usd if askable.paid else None,
            spent=self._desk.read_spent(folder.name),
            record=self._desk.record.folder.name if self._desk.record else None,
        )
        return HTMLResponse(page, refusal.status if refusal else 200)


async def _read_form(request: Request) -> _SentForm:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise AskRefused(415, "send the question by the form of this page")
    parts: list[bytes] = []
    size = 0
    # Counted as it comes, since the length that a client announces binds nobody.
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > _MOST_BYTES:
            raise AskRefused(413, f"a question has up to {MOST_CHARACTERS:,} characters")
    try:
        # Our forms have up to three fields.
        found = parse_qs(b"".join(parts).decode("ascii"), max_num_fields=8)
    except ValueError:
        raise AskRefused(400, "the form cannot be read; send it once more from here") from None
    first = {name: values[0] for name, values in found.items()}
    return _SentForm(first.get("question", ""), first.get("form", ""), first.get("secret", ""))


def _check_question(text: str) -> str:
    # A browser ends the lines of a form with both characters.
    text = text.replace("\r\n", "\n").strip()
    if not text:
        raise AskRefused(400, "the question is empty; ask something")
    if len(text) > MOST_CHARACTERS:
        raise AskRefused(413, f"a question has up to {MOST_CHARACTERS:,} characters")
    return text
