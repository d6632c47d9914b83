"""The body of a chat request: what it may say, what is refused, and what it means for a debate.

OpenAI's parameters fall into three groups. Those that a society can honor are taken. Those that
change an answer and cannot be honored are refused, unless they have the value that is off anyway.
Those that change no answer, such as `user`, are passed over. An unknown one is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from providers.types import Message, Role
from society.view.endpoint.refusals import RequestRefused
from store.content import make_storable

# Each choice is a whole debate in the place of one request.
MOST_CHOICES = 16
_ALONE = "the society answers in text and calls no tools"
_PLAIN = "the society answers in text of its own form"
_NO_LOGPROBS = "a debate has no log-probabilities"
_TEXT_ONLY = "the society reads and writes text"
# What is refused: the values that ask for nothing, and why any other cannot be honored.
_REFUSED: Mapping[str, tuple[tuple[object, ...], str]] = {
    "tools": ((None, []), _ALONE),
    "tool_choice": ((None, "none", "auto"), _ALONE),
    "functions": ((None, []), _ALONE),
    "function_call": ((None, "none", "auto"), _ALONE),
    "response_format": ((None, {"type": "text"}), _PLAIN),
    "logprobs": ((None, False), _NO_LOGPROBS),
    "top_logprobs": ((None, 0), _NO_LOGPROBS),
    "logit_bias": ((None, {}), "agents draw from their own distributions"),
    "modalities": ((None, ["text"]), _TEXT_ONLY),
    "audio": ((None,), _TEXT_ONLY),
    "prediction": ((None,), "a debate cannot use a predicted answer"),
    "web_search_options": ((None,), "the society searches nothing"),
    # How much is debated is the choice of a model here, and a hint would not be honored.
    "reasoning_effort": ((None,), "choose society:round1, society:fast or society instead"),
    "verbosity": ((None, "medium"), _PLAIN),
}
# Clients and frameworks send these without being asked.
_PASSED_OVER = (
    *("user", "metadata", "store", "service_tier", "parallel_tool_calls"),
    *("prompt_cache_key", "prompt_cache_retention", "safety_identifier"),
)
_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
_STATED = (
    *("temperature", "top_p", "frequency_penalty", "presence_penalty"),
    *("top_k", "min_p", "repetition_penalty"),
)

Stop = Annotated[str, Field(min_length=1)]
Penalty = Annotated[float, Field(ge=-2.0, le=2.0)]


class _Part(BaseModel):
    """A piece of a message's content."""

    model_config = ConfigDict(extra="allow")
    type: str
    text: str | None = None


class _ChatMessage(BaseModel):
    """A message; clients send answers back with whatever stood beside the text."""

    model_config = ConfigDict(extra="allow")
    role: str
    content: str | list[_Part] | None = None


class _StreamOptions(BaseModel):
    model_config = ConfigDict(extra="allow")
    include_usage: bool | None = None


class _ChatBody(BaseModel):
    """The parameters that are honored; the others have been sorted out before."""

    # Strict: "2" for n would be taken for 2, and true for max_tokens = 1.
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    model: str
    messages: list[_ChatMessage] = Field(min_length=1)
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    seed: int | None = None
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] | None = None
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    min_p: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0.0)] | None = None
    include_reasoning: bool | None = None


@dataclass(frozen=True, slots=True)
class ChatQuestion:
    """What a request asks: the last user message, after an `earlier` conversation.

    `choices` debates are held. `stated` are the sampling settings that the request names,
    `max_tokens` the most tokens of one answer; None leaves both to the run. With a `seed` the same
    request is answered alike, where the society's provider keeps seeds. `shows_debate` is None
    where the request leaves that to the server.
    """

    model: str
    text: str
    earlier: tuple[Message, ...] = ()
    choices: int = 1
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    stated: Mapping[str, float] = field(default_factory=dict)
    streams: bool = False
    reports_usage: bool = False
    shows_debate: bool | None = None


def read_question(raw: bytes) -> ChatQuestion:
    """The question in a request's body. Raises `RequestRefused` that names the parameter.

    >>> body = {"model": "society", "messages": [{"role": "user", "content": "1+1"}]}
    >>> read_question(json.dumps(body).encode()).text
    '1+1'
    """
    try:
        given = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise RequestRefused(400, f"the body is no JSON: {error}") from None
    if not isinstance(given, dict):
        raise RequestRefused(400, "the body is no JSON object; send model and messages")
    body = _check_parameters(given)
    messages = [_read_message(place, message) for place, message in enumerate(body.messages)]
    *earlier, last = messages
    if last.role != "user" or not last.content.strip():
        raise RequestRefused(
            400,
            f"the last message has the role {last.role!r} and {len(last.content)} characters; end "
            "the conversation with the user's question",
            param="messages",
        )
    stop = body.stop or ()
    return ChatQuestion(
        model=body.model,
        text=last.content,
        earlier=tuple(earlier),
        choices=body.n or 1,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        seed=body.seed,
        stated={name: value for name in _STATED if (value := getattr(body, name)) is not None},
        streams=bool(body.stream),
        reports_usage=bool(body.stream_options and body.stream_options.include_usage),
        shows_debate=body.include_reasoning,
    )


def _check_parameters(given: dict[str, Any]) -> _ChatBody:
    for name, (off, why) in _REFUSED.items():
        if given.pop(name, None) not in off:
            raise RequestRefused(
                400,
                f"{name} is not supported: {why}; remove it",
                code="unsupported_parameter",
                param=name,
            )
    for name in _PASSED_OVER:
        given.pop(name, None)
    if unknown := sorted(given.keys() - _ChatBody.model_fields.keys()):
        raise RequestRefused(
            400,
            f"unknown parameter {unknown[0]!r}; there are {', '.join(_ChatBody.model_fields)}",
            code="unknown_parameter",
            param=unknown[0],
        )
    try:
        return _ChatBody.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        # Two steps name a parameter and its entry; deeper ones are pydantic's own.
        place = ".".join(str(part) for part in first["loc"][:2])
        value = "" if first["type"] == "missing" else f" = {_shorten(first['input'])}"
        raise RequestRefused(
            400, f"{place}{value}: {first['msg']}", code="invalid_value", param=place
        ) from None


def _read_message(place: int, message: _ChatMessage) -> Message:
    at = f"messages.{place}"
    role = _ROLES.get(message.role)
    extra = message.model_extra or {}
    if role is None or extra.get("tool_calls") or extra.get("function_call"):
        raise RequestRefused(
            400,
            f"{at} is a call of a tool or its result (role {message.role!r}): {_ALONE}; send "
            "messages of system, developer, user and assistant",
            code="unsupported_parameter",
            param=at,
        )
    content = message.content
    text = content if isinstance(content, str) else _join_parts(at, content or ())
    # JSON can hold lone surrogates, which neither a database nor a model's tokenizer takes.
    return Message(role, make_storable(text))


def _join_parts(at: str, parts: Sequence[_Part]) -> str:
    for part in parts:
        if part.type not in ("text", "refusal") or (part.type == "text" and part.text is None):
            raise RequestRefused(
                400,
                f"{at} has a part of type {part.type!r}: {_TEXT_ONLY}; send text only",
                code="unsupported_parameter",
                param=at,
            )
    return "".join(part.text or "" for part in parts)


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
