"""One chat request: from its body to its answer, or to the stream of its debate.

A request holds its place only as long as its client is there: a connection that closes, however,
cancels the debate, whose calls are dropped where they are.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from providers.gathering import gather_or_cancel
from society.view.endpoint.admission import Admission
from society.view.endpoint.answers import (
    Json,
    ReplyHead,
    build_chunk,
    build_completion,
    build_final_chunks,
    build_usage_chunk,
    describe_progress,
    encode_event,
    encode_json,
)
from society.view.endpoint.body import ChatQuestion, read_question
from society.view.endpoint.forms import AnswerForm, refuse_model
from society.view.endpoint.metrics import EndpointMetrics
from society.view.endpoint.refusals import RequestRefused, refuse_error
from society.view.endpoint.society import ServedDebate, ServedSociety
from store.records import Turn

_log = logging.getLogger(__name__)
_MOST_BYTES = 4 << 20
# A proxy closes a connection that says nothing for a minute or so.
_SILENT_S = 15.0
_CLIENT_LEFT = 499


@dataclass(frozen=True, slots=True)
class ChatLimits:
    """`deadline_s` from a request's arrival to the end of its answer, and the most tokens that it
    may write over all its calls (None: as many as the run's settings allow)."""

    deadline_s: float = 300.0
    tokens: int | None = None


class ClientLeft(Exception):
    """The client has closed its connection."""


class ChatEndpoint:
    """The ASGI application at /v1/chat/completions.

    `shows_debate`: whether turns are told beside the answer where a request does not say.
    """

    def __init__(
        self,
        society: ServedSociety,
        forms: Mapping[str, AnswerForm],
        admission: Admission,
        metrics: EndpointMetrics,
        limits: ChatLimits,
        *,
        shows_debate: bool,
    ) -> None:
        self._society = society
        self._forms = forms
        self._admission = admission
        self._metrics = metrics
        self._limits = limits
        self._shows_debate = shows_debate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.monotonic()
        reply = _Reply(send)
        # A stop may cancel the request at any moment, and then its client got nothing either.
        model, status = "", _CLIENT_LEFT
        try:
            async with asyncio.timeout(self._limits.deadline_s):
                question = read_question(await _read_body(Headers(scope=scope), receive))
                form = self._find_form(question)
                # Only now: a name that a client has made up is no label for the figures.
                model = form.model
                await _stay_while_connected(receive, self._answer(question, form, reply))
            status = 200
        except ClientLeft:
            pass
        # An error of one request, whatever it is, must not end the others.
        except Exception as error:
            status = await reply.refuse(self._explain(error, model))
        finally:
            self._metrics.count_request(model, status, time.monotonic() - started)

    def _explain(self, error: Exception, model: str) -> RequestRefused:
        # Errors of the models that are timeouts, too, have types of their own.
        if type(error) is TimeoutError:
            return RequestRefused(
                504,
                f"no answer within {self._limits.deadline_s:g} s, the deadline of this server; ask "
                "a smaller model of it, or start it with a longer --deadline",
                "server_error",
                "deadline_exceeded",
            )
        refusal = refuse_error(error)
        if refusal.status == 500:
            _log.error("a request of %s failed", model or "no model", exc_info=error)
        return refusal

    def _find_form(self, question: ChatQuestion) -> AnswerForm:
        form = self._forms.get(question.model)
        if form is None:
            raise refuse_model(question.model, self._forms)
        self._society.check_limits(form, question, self._limits.tokens)
        return form

    async def _answer(self, question: ChatQuestion, form: AnswerForm, reply: _Reply) -> None:
        async with self._admission.hold_place():
            head = ReplyHead(
                f"chatcmpl-{uuid4().hex}", int(time.time()), form.model, self._fingerprint
            )
            shows = self._shows_debate if question.shows_debate is None else question.shows_debate
            if question.streams:
                await self._stream(question, form, head, reply, shows_debate=shows)
                return
            debates = await self._hold_debates(question, form, head, lambda index, turn: None)
            await reply.send_json(
                200, build_completion(head, question, debates, shows_debate=shows)
            )

    @property
    def _fingerprint(self) -> str:
        return f"{self._society.run.name}-{self._society.run.iteration}"

    async def _hold_debates(
        self,
        question: ChatQuestion,
        form: AnswerForm,
        head: ReplyHead,
        on_turn: Callable[[int, Turn], None],
        on_end: Callable[[int, ServedDebate], None] = lambda index, debate: None,
    ) -> list[ServedDebate]:
        """The debates of all choices, side by side."""

        async def hold(index: int) -> ServedDebate:
            debate = await self._society.hold_debate(
                form,
                question,
                f"{head.reply_id}-{index}",
                index,
                lambda turn: on_turn(index, turn),
            )
            self._metrics.count_debate(debate)
            on_end(index, debate)
            return debate

        return await gather_or_cancel([hold(index) for index in range(question.choices)])

    async def _stream(
        self,
        question: ChatQuestion,
        form: AnswerForm,
        head: ReplyHead,
        reply: _Reply,
        *,
        shows_debate: bool,
    ) -> None:
        waiting: asyncio.Queue[Json | None] = asyncio.Queue()

        def tell_turn(index: int, turn: Turn) -> None:
            if shows_debate and (told := describe_progress(form, turn)):
                waiting.put_nowait(build_chunk(head, index, {"reasoning_content": told}))

        def tell_answer(index: int, debate: ServedDebate) -> None:
            for chunk in build_final_chunks(head, index, question, debate):
                waiting.put_nowait(chunk)

        # The role goes out before the first turn, so that a client sees that it was heard.
        for index in range(question.choices):
            opening: Json = {"role": "assistant", "content": ""}
            waiting.put_nowait(build_chunk(head, index, opening))
        work = asyncio.ensure_future(
            self._hold_debates(question, form, head, tell_turn, tell_answer)
        )
        # Also after an error, which is raised below once all that was told before it has gone out.
        work.add_done_callback(lambda _: waiting.put_nowait(None))
        try:
            await reply.send_events(waiting)
            debates = await work
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        if question.reports_usage:
            await reply.send_event(build_usage_chunk(head, debates))
        await reply.end_events()


@dataclass(slots=True)
class _Reply:
    """What goes back to one client: one JSON object, or events."""

    _send: Send
    _begun: bool = field(default=False)
    _streaming: bool = field(default=False)

    async def send_json(
        self, status: int, data: Json, headers: Mapping[str, str] | None = None
    ) -> None:
        body = encode_json(data)
        length = {"content-length": str(len(body)), **(headers or {})}
        await self._begin(status, "application/json", length)
        await self._send({"type": "http.response.body", "body": body})

    async def send_events(self, waiting: asyncio.Queue[Json | None]) -> None:
        """Send what comes until None comes; say something now and then where nothing does."""
        await self._begin(200, "text/event-stream; charset=utf-8", {"x-accel-buffering": "no"})
        self._streaming = True
        while True:
            try:
                async with asyncio.timeout(_SILENT_S):
                    event = await waiting.get()
            except TimeoutError:
                await self._send_part(b": the debate goes on\n\n")
                continue
            if event is None:
                return
            await self.send_event(event)

    async def send_event(self, event: Json) -> None:
        await self._send_part(encode_event(event))

    async def end_events(self) -> None:
        await self._send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    async def refuse(self, refusal: RequestRefused) -> int:
        """Tell the client of an error, in whichever way is still open; returns the status."""
        if self._streaming:
            # The status 200 has gone out, so the error is an event, as OpenAI sends it.
            await self._send({"type": "http.response.body", "body": encode_event(refusal.body)})
        # Half of a JSON object cannot be taken back: the client sees a body that is too short.
        elif not self._begun:
            await self.send_json(refusal.status, refusal.body, refusal.headers)
        return refusal.status

    async def _send_part(self, part: bytes) -> None:
        await self._send({"type": "http.response.body", "body": part, "more_body": True})

    async def _begin(self, status: int, kind: str, headers: Mapping[str, str]) -> None:
        self._begun = True
        told = {"content-type": kind, "cache-control": "no-store", **headers}
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(name.encode(), value.encode()) for name, value in told.items()],
            }
        )


async def _read_body(headers: Headers, receive: Receive) -> bytes:
    """The whole body. JSON only: a web page of others cannot send that without being asked."""
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RequestRefused(415, "send the request as Content-Type: application/json")
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        # Counted as it comes, since a length that a client announces binds nobody.
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > _MOST_BYTES:
            raise RequestRefused(
                413, f"the request has more than {_MOST_BYTES:,} bytes; shorten the conversation"
            )
        if not message.get("more_body", False):
            return b"".join(parts)


async def _stay_while_connected(receive: Receive, work: Awaitable[Any]) -> None:
    """Await `work`, and cancel it once the client has left. Raises `ClientLeft` then."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_wait_for_leaving(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeft
        working.result()
    finally:
        # Awaited too, so that the place is free when the next one looks for it.
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _wait_for_leaving(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
