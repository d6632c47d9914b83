"""Requests as the files a batch reads, and a batch's answers as what they were asked for.

Input lines are ``{"custom_id", "method", "url", "body"}``, output and error lines
``{"custom_id", "response": {"status_code", "body"}, "error": {"code", "message"}}``; see
https://platform.openai.com/docs/guides/batch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from providers.errors import BadRequest, ProviderError
from providers.openai.answers import EmbeddedError
from providers.openai.chat import Chat
from providers.openai.client import Connection
from providers.openai.errors import classify_refusal, find_embedded_status, parse_refusal
from providers.openai.files import LocalFile
from providers.types import Completion, Request

ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
MAX_REQUESTS = 50_000
MAX_BYTES = 200 * 1000 * 1000

_PASSING = frozenset({408, 409, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class BatchLine:
    """One request as it is sent. `custom_id` stands for the request's key and its whole body."""

    custom_id: str
    model: str
    request: Request
    text: bytes


@dataclass(frozen=True, slots=True)
class BatchPart:
    """The lines of one batch, all for one model."""

    lines: tuple[BatchLine, ...]

    @property
    def custom_ids(self) -> tuple[str, ...]:
        return tuple(line.custom_id for line in self.lines)

    def digest(self, attempt: int) -> str:
        """SHA-256 of what is asked, and of how often the very same was asked before."""
        content = hashlib.sha256(f"attempt {attempt}\n".encode())
        for line in self.lines:
            content.update(line.text)
        return content.hexdigest()

    def write(self, path: Path) -> LocalFile:
        """Write the input file; blocks."""
        with path.open("wb") as file:
            size = sum(file.write(line.text) for line in self.lines)
        return LocalFile(path, size, len(self.lines))


def build_line(request: Request, body: Mapping[str, object]) -> BatchLine:
    """The line of one request, whose chat completion parameters are `body`."""
    canonical = json.dumps(body, ensure_ascii=False, sort_keys=True)
    custom_id = hashlib.sha256(f"{request.key}\n{canonical}".encode()).hexdigest()[:48]
    line = {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": body}
    text = json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n"
    return BatchLine(custom_id, str(body.get("model")), request, text.encode())


def split_lines(
    lines: Iterable[BatchLine], max_requests: int = MAX_REQUESTS, max_bytes: int = MAX_BYTES
) -> list[BatchPart]:
    """Cut `lines` into batches of one model each, under the limits, keeping the order.

    Raises `BadRequest` for a request that is too long to be in any batch.
    """
    by_model: dict[str, list[BatchLine]] = {}
    for line in lines:
        if len(line.text) > max_bytes:
            raise BadRequest(
                f"request {line.request.key} has {len(line.text):,} bytes, more than a whole batch "
                f"may have ({max_bytes:,}); make the call without a batch"
            )
        by_model.setdefault(line.model, []).append(line)
    parts: list[BatchPart] = []
    for own in by_model.values():
        parts += _cut_lines(own, max_requests, max_bytes)
    return parts


def _cut_lines(
    lines: Sequence[BatchLine], max_requests: int, max_bytes: int
) -> Iterator[BatchPart]:
    part: list[BatchLine] = []
    size = 0
    for line in lines:
        if part and (len(part) == max_requests or size + len(line.text) > max_bytes):
            yield BatchPart(tuple(part))
            part, size = [], 0
        part.append(line)
        size += len(line.text)
    if part:
        yield BatchPart(tuple(part))


class _Response(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    status_code: int = 0
    body: object = None


class _AnswerLine(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    custom_id: str
    response: _Response | None = None
    error: object = None


@dataclass(frozen=True, slots=True)
class LineAnswer:
    """What a batch says about one request.

    `status` 200: `body` is the completion. Another status is the server's refusal of this request,
    with `body` as it came. `passing`: it was not answered for a reason that may be gone next time;
    `said` is that reason where there is no status.
    """

    custom_id: str
    status: int
    body: object
    passing: bool
    said: str = ""


def read_answers(path: Path, wanted: Callable[[str], bool]) -> Iterator[LineAnswer]:
    """The answers of an output or error file to the wanted requests.

    A line that cannot be read counts as not answered.
    """
    with path.open("rb") as file:
        for text in file:
            try:
                answer = _AnswerLine.model_validate_json(text)
            except ValidationError:
                continue
            if not wanted(answer.custom_id):
                continue
            response = answer.response
            if response is None or not response.status_code:
                # Expired and cancelled requests come with an error and without a response.
                yield LineAnswer(
                    answer.custom_id, 0, None, passing=True, said=_find_error_text(answer.error)
                )
            else:
                status = response.status_code
                yield LineAnswer(answer.custom_id, status, response.body, status in _PASSING)


def _find_error_text(error: object) -> str:
    told = error.get("message") or error.get("code") if isinstance(error, dict) else error
    return str(told or "")


class BatchChat:
    """A `ChatShape` for the models of one connection.

    What `chat` has learnt about a model's parameters holds here too; nothing can be learnt from a
    batch.
    """

    def __init__(self, connection: Connection, chat: Chat) -> None:
        self._connection = connection
        self._chat = chat

    def body(self, request: Request) -> Mapping[str, object]:
        """The parameters of the chat completion."""
        model = self._name(request)
        return {
            "model": model,
            "messages": [{"role": m.role, "content": m.content} for m in request.messages],
            **self._chat.parameters(model).values(request.sampling, request.key, model),
        }

    def completion(self, body: object, request: Request) -> Completion:
        """The answer; its `latency_ms` is 0, since a batch has no latency of single answers."""
        try:
            return self._chat.completion(json.dumps(body).encode(), request)
        except EmbeddedError as error:
            failure = self.refusal(find_embedded_status(error.body), error.body)
        raise failure

    def refusal(self, status: int, body: object) -> ProviderError:
        """What an error answer means."""
        told = parse_refusal(status, body, {}, self._connection.secrets)
        return classify_refusal(told, self._connection.address.model)

    def _name(self, request: Request) -> str:
        return request.model.artifact or self._connection.address.model
