"""The files of a batch: requests as input lines, output lines as answers.

Input lines are ``{"custom_id", "method", "url", "body"}``; output and error lines are
``{"custom_id", "response": {"status_code", "body"}, "error": {"code", "message"}}``. See
https://platform.openai.com/docs/guides/batch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from providers.batch_lines import PASSING, BatchLine, LineAnswer, encode_line, hash_request
from providers.errors import ProviderError
from providers.openai.answers import EmbeddedError
from providers.openai.chat import Chat
from providers.openai.client import Connection
from providers.openai.errors import classify_refusal, find_embedded_status, parse_refusal
from providers.types import Completion, Request

ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
MAX_REQUESTS = 50_000
MAX_BYTES = 200 * 1000 * 1000


def build_line(request: Request, body: Mapping[str, object]) -> BatchLine:
    """The line of one request; `body` is that of its chat completion.

    Example::

        build_line(request, {"model": "gpt-4.1-mini", "messages": […]}).custom_id
    """
    custom_id = hash_request(request, body)
    line = {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": body}
    return BatchLine(custom_id, str(body.get("model")), request, encode_line(line))


class _Response(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    status_code: int = 0
    body: object = None


class _AnswerLine(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    custom_id: str
    response: _Response | None = None
    error: object = None


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
                yield LineAnswer(answer.custom_id, status, response.body, status in PASSING)


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
        model = self._connection.name_model(request.model)
        parameters = self._chat.get_parameters(model)
        values = parameters.build_values(request.sampling, request.key, model)
        return self._chat.make_call(request, model).build_body(values)

    def parse_completion(self, body: object, request: Request) -> Completion:
        """The answer; its `latency_ms` is 0, since single answers of a batch have no latency."""
        model = self._connection.name_model(request.model)
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
