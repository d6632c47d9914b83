"""Reading a chat completion: what came back, checked and brought into our terms."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from providers.base import FinishReason
from providers.errors import RetryableError

_REASONS: Mapping[str, FinishReason] = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "model_length": "length",
    "content_filter": "filtered",
    "refusal": "refused",
}


class _Foreign(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Part(_Foreign):
    type: str = "text"
    text: str | None = None


class _Message(_Foreign):
    content: str | list[_Part] | None = None
    refusal: str | None = None


class _Choice(_Foreign):
    message: _Message
    finish_reason: str | None = None


class _Usage(_Foreign):
    prompt_tokens: int = 0
    completion_tokens: int | None = 0


class _Body(_Foreign):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


class _TokenLogprob(_Foreign):
    logprob: float


class _ScoredBody(_Foreign):
    prompt_logprobs: list[dict[int, _TokenLogprob] | None] | None = None
    error: Any = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said. The token counts are None where the server does not tell them."""

    text: str
    finish_reason: FinishReason
    prompt_tokens: int | None
    completion_tokens: int | None


@dataclass(frozen=True, slots=True)
class PromptScore:
    """Token ids of a prompt from its second token on, and their log-probabilities in nats."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


class ErrorInside(Exception):
    """The body of a good status describes an error; `body` is that description."""

    def __init__(self, body: object) -> None:
        super().__init__("the server's answer holds an error")
        self.body = body


Body = TypeVar("Body", _Body, _ScoredBody)


def read_answer(content: bytes) -> Answer:
    """A chat completion with one choice. Raises `RetryableError` for anything else, `ErrorInside`.

    A truncated, filtered, refused or empty answer is read as what it is.
    """
    body = _parsed(_Body, content)
    if not body.choices:
        raise RetryableError("the server's answer has no choices")
    choice = body.choices[0]
    message, told = choice.message, choice.finish_reason
    text = message.content
    if isinstance(text, list):
        text = "".join(part.text or "" for part in text if part.type in ("text", "output_text"))
    reason = _REASONS.get(told, "error") if told is not None else "stop"
    if told == "abort":
        raise RetryableError("the server broke the answer off")
    if message.refusal:
        reason, text = "refused", text or message.refusal
    usage = body.usage
    return Answer(
        text or "",
        reason,
        None if usage is None else usage.prompt_tokens,
        None if usage is None else usage.completion_tokens or 0,
    )


def read_prompt_score(content: bytes) -> PromptScore | None:
    """The prompt's log-probabilities as vLLM gives them, None where the server gave none.

    Raises `RetryableError` for what is no answer at all, `ErrorInside`.
    """
    scored = _parsed(_ScoredBody, content).prompt_logprobs
    if not scored:
        return None
    ids, logprobs = [], []
    for place in scored[1:]:
        if not place:
            raise RetryableError("the server left out the log-probability of a token")
        # Asked for no alternatives, the server gives the prompt's own token, and it comes first.
        token_id, token = next(iter(place.items()))
        ids.append(token_id)
        logprobs.append(token.logprob)
    return PromptScore(tuple(ids), tuple(logprobs))


def _parsed(model: type[Body], content: bytes) -> Body:
    try:
        body = _validated(model, content)
    except (ValidationError, ValueError) as error:
        told = content[:200].decode("utf-8", "replace")
        lines = str(error).splitlines()
        problem = lines[0] if lines else ""
        raise RetryableError(f"the server's answer is not usable ({problem}): {told!r}") from None
    if body.error:
        raise ErrorInside(body.error)
    return body


def _validated(model: type[Body], content: bytes) -> Body:
    try:
        return model.model_validate_json(content)
    except ValidationError:
        # Python reads half a surrogate pair where the strict reader does not; a model may say one.
        whole = json.dumps(json.loads(content), ensure_ascii=False)
        return model.model_validate_json(whole.encode("utf-8", "replace"))
