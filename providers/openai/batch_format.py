"""The files of a batch: requests as input lines, output lines as answers.

Input lines are ``{"custom_id", "method", "url", "body"}``; output and error lines are
``{"custom_id", "response": {"status_code", "body"}, "error": {"code", "message"}}``. See
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
    """One request as it is sent. `custom_id` is a hash of the request's key and its whole body."""

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
        """SHA-256 of the lines and the attempt's number, so that a retry is a batch of its own."""
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
    """The line of one request; `body` is that of its chat completion.

    Example::

        build_line(request, {"model": "gpt-4.1-mini", "messages": […]}).custom_id
    """
    # The body is part of the id, so that answers from a run with other settings do not match.
    canonical = json.dumps(body, ensure_ascii=False, sort_keys=True)
    custom_id = hashlib.sha256(f"{request.key}\n{canonical}".encode()).hexdigest()[:48]
    line = {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": body}
    text = json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n"
    return BatchLine(custom_id, str(body.get("model")), request, text.encode())


def split_lines(
    lines: Iterable[BatchLine], max_requests: int = MAX_REQUESTS, max_bytes: int = MAX_BYTES
) -> list[BatchPart]:
    """Split `lines` into batches of one model each, within the limits, in order.

    Raises `BadRequest` for a request that is too long for any batch.
    """
    # The vendor allows one model per batch.
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

    With `status` 200, `body` is the completion. With another status the server refused this
    request, and `body` is what it sent. With `status` 0 there is no answer, and `reason` says why.
    `passing`: the request may succeed in another batch.
    """

    custom_id: str
    status: int
    body: object
    passing: bool
    reason: str = ""


def read_answers(path: Path, is_wanted: Callable[[str], bool]) -> Iterator[LineAnswer]:
    """The answers in an output or error file whose `custom_id` is wanted.

    A line that cannot be parsed is skipped, so its request counts as unanswered.
    """
    with path.open("rb") as file:
        for text in file:
            try:
                answer = _AnswerLine.model_validate_json(text)
            # The request stays open, and is sent again.
            except ValidationError:
                continue
            if not is_wanted(answer.custom_id):
                continue
            response = answer.response
            if response is None or not response.status_code:
                # Expired and cancelled requests come with an error and without a response.
                yield LineAnswer(
                    answer.custom_id, 0, None, passing=True, reason=_find_error_text(answer.error)
                )
            else:
                status = response.status_code
                yield LineAnswer(answer.custom_id, status, response.body, status in _PASSING)


def _find_error_text(error: object) -> str:
    text = error.get("message") or error.get("code") if isinstance(error, dict) else error
    return str(text or "")


class BatchChat:
    """Chat completions inside batches, with the parameters and the parsing of single calls.

    What `chat` has learned about a model's parameters applies here too. A batch itself teaches
    nothing, since its refusals come too late to send other parameters.
    """

    def __init__(self, connection: Connection, chat: Chat) -> None:
        self._connection = connection
        self._chat = chat

    def build_body(self, request: Request) -> Mapping[str, object]:
        """The request's body."""
        model = request.model.artifact or self._connection.address.model
        parameters = self._chat.get_parameters(model)
        values = parameters.build_values(request.sampling, request.key, model)
        return self._chat.make_call(request, model).build_body(values)

    def parse_completion(self, body: object, request: Request) -> Completion:
        """The answer; its `latency_ms` is 0, since single answers of a batch have no latency."""
        model = request.model.artifact or self._connection.address.model
        try:
            completion, _ = self._chat.parse_completion(request, model, json.dumps(body).encode())
            return completion
        except EmbeddedError as error:
            failure = self.classify_refusal(find_embedded_status(error.body), error.body)
        # Raised outside the handler: a chained exception would show the server's unscrubbed words.
        raise failure

    def classify_refusal(self, status: int, body: object) -> ProviderError:
        """The error that an answer with another status than 200 means."""
        refusal = parse_refusal(status, body, {}, self._connection.secrets)
        return classify_refusal(refusal, self._connection.address.model)
