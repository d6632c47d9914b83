"""The lines of Gemini's batches: requests as they go in, answers as they come out.

An input line is ``{"request": GenerateContentRequest}``; an output line repeats the request and has
``"response"``, or a ``"status"`` that is not empty. Google has no id for a line, and they come back
in any order, so each request carries a label of its own, which comes back with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from google.genai import types
from pydantic import BaseModel, ValidationError

from providers.batch_lines import PASSING, BatchLine, LineAnswer, encode_line, hash_request
from providers.errors import UnusableAnswer
from providers.gemini.answers import parse_answer, split_messages
from providers.gemini.chat import build_config
from providers.gemini.settings import GeminiSettings
from providers.secrets import Secrets
from providers.types import Completion, Request

LABEL = "society_request"

# https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto
_STATUSES: Mapping[int, int] = {
    1: 499,
    3: 400,
    4: 504,
    5: 404,
    7: 403,
    8: 429,
    9: 400,
    10: 409,
    12: 501,
    13: 500,
    14: 503,
    16: 401,
}


def build_line(request: Request, model: str, settings: GeminiSettings) -> BatchLine:
    """The line of one request to `model`, with all that a single call would have.

    Raises `BadRequest` for a conversation that Google has no form for.
    """
    system, contents = split_messages(request.messages)
    # The very settings of a single call, so that a run may change between the two.
    config = build_config(request.sampling, request.key, None, settings)
    chosen = {
        name: value
        for name in types.GenerationConfig.model_fields
        if (value := getattr(config, name, None)) is not None
    }
    body: dict[str, object] = {
        "contents": [_dump(content) for content in contents],
        "generationConfig": _dump(types.GenerationConfig.model_validate(chosen)),
    }
    if system is not None:
        body["systemInstruction"] = {"parts": [{"text": system}]}
    custom_id = hash_request(request, {"model": model, **body})
    line = {"request": {**body, "labels": {LABEL: custom_id}}}
    return BatchLine(custom_id, model, request, encode_line(line))


def parse_answers(path: Path) -> Iterator[LineAnswer]:
    """The answers in an output file. A line that cannot be parsed is skipped, so that its request
    counts as unanswered."""
    with path.open("rb") as file:
        for text in file:
            try:
                line = json.loads(text)
            # The request stays open, and is sent again.
            except ValueError:
                continue
            if isinstance(line, Mapping) and (custom_id := _find_label(line)):
                yield _parse_line(custom_id, line)


def parse_completion(body: object, request: Request, secrets: Secrets) -> Completion:
    """The answer in a response. Its `latency_ms` is 0: lines of a batch have no latency.

    Raises `UnusableAnswer` for a response in no known form.
    """
    try:
        response = types.GenerateContentResponse.model_validate(body)
    except ValidationError as error:
        raise UnusableAnswer("Google answered in a form that is not known") from error
    return parse_answer(response, request, 0.0, secrets)[0]


def _parse_line(custom_id: str, line: Mapping[str, object]) -> LineAnswer:
    problem = line.get("error") or line.get("status")
    if not problem and line.get("response"):
        return LineAnswer(custom_id, 200, line["response"], passing=False)
    body = _parse_problem(problem)
    status = _find_status(body)
    # Without a code there is nothing that says it cannot succeed.
    passing = not status or status in PASSING
    return LineAnswer(custom_id, status, body, passing, reason=str(problem or "no response"))


def _find_label(line: Mapping[str, object]) -> str | None:
    request = line.get("request")
    # Labels end up in billing exports, so they hold a hash and nothing of the question.
    labels = request.get("labels") if isinstance(request, Mapping) else None
    found = labels.get(LABEL) if isinstance(labels, Mapping) else None
    return found if isinstance(found, str) else None


def _parse_problem(problem: object) -> Mapping[str, object]:
    """The body of a refusal, which Google writes as an object, or as JSON behind some words."""
    if isinstance(problem, Mapping):
        return problem
    text = str(problem or "")
    try:
        found = json.loads(text[text.index("{") :])
    except ValueError:
        return {"message": text}
    return found if isinstance(found, Mapping) else {"message": text}


def _find_status(body: Mapping[str, object]) -> int:
    """The HTTP status of a refusal, 0 if it says none."""
    inner = body.get("error")
    code = (inner if isinstance(inner, Mapping) else body).get("code")
    # Either an HTTP status or a number of google.rpc.Code, which end at 16.
    number = code if isinstance(code, int) else 0
    return number if number >= 400 else _STATUSES.get(number, 0)


def _dump(value: BaseModel) -> dict[str, object]:
    return value.model_dump(mode="json", by_alias=True, exclude_none=True)
