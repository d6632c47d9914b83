"""Reading a chat completion: what came back, checked and brought into our terms.

Servers agree on `choices[0].message.content` and on little else; what each of them does otherwise
is listed where it is read.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from providers.errors import RetryableError, UnusableAnswer
from providers.openai.bodies import parse_body
from providers.types import FinishReason, Sampling

_THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thoughts", "reasoning_details")
_THOUGHT_PARTS = {"thinking", "redacted_thinking", "reasoning", "reasoning_text", "thought"}
_TEXT_KEYS = ("text", "output_text", "content", "value", "parts")
_PROMPT_TOKENS = ("prompt_tokens", "input_tokens", "prompt_token_count")
_COMPLETION_TOKENS = ("completion_tokens", "output_tokens", "generated_tokens")
_MOST_TOKENS = 2**31 - 1
_DEEPEST = 8
# What an `error` beside a good answer may hold without meaning one.
_NO_ERROR = {"", "0", "200", "ok", "success", "none", "null", "false"}


class _TokenLogprob(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    logprob: float


class _Scored(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    prompt_logprobs: list[dict[int, _TokenLogprob] | None] | None = None


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """What a model said. The token counts are None where the server does not tell them.

    `ending` is what the server says about the answer's end; `error` why there is no text.
    """

    text: str
    finish_reason: FinishReason
    prompt_tokens: int | None
    completion_tokens: int | None
    ending: Ending
    error: str | None = None

    def within(self, sampling: Sampling) -> ChatAnswer:
        """The answer, as truncated where all its tokens are used up and its end is not told."""
        used_up = (self.completion_tokens or 0) >= sampling.max_tokens
        if self.ending.kind != "unknown" or not used_up or self.finish_reason == "refused":
            return self
        return ChatAnswer(
            self.text,
            "length",
            self.prompt_tokens,
            self.completion_tokens,
            Ending("length", self.ending.word),
            self.error,
        )


@dataclass(frozen=True, slots=True)
class PromptScore:
    """Token ids of a prompt from its second token on, and their log-probabilities in nats."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


class EmbeddedError(Exception):
    """The body of a good status describes an error; `body` is that description."""

    def __init__(self, body: object) -> None:
        super().__init__("the server's answer holds an error")
        self.body = body


def parse_answer(content: bytes, charset: str | None = None) -> ChatAnswer:
    """A chat completion with one choice.

    A truncated, filtered, refused or empty answer is read as what it is. Raises `ErrorInside`;
    `RetryableError` where the answer is cut, no JSON or broken off by the server; `UnusableAnswer`
    where it is of another form.
    """
    body = parse_body(content, charset)
    choice = _get_choice(body)
    message = choice.get("message") or choice.get("delta") or {}
    if not isinstance(message, Mapping):
        message = {"content": message}
    ending = parse_ending(_find_finish_reason(choice))
    if ending.kind == "broken":
        raise RetryableError(f"the server broke the answer off (finish_reason {ending.word!r})")
    text = _join_text(message.get("content"))
    if not text and choice.get("text"):
        text = _join_text(choice["text"])
    refusal = _join_text(message.get("refusal"))
    usage = body.get("usage")
    tokens = parse_token_counts(usage if isinstance(usage, Mapping) else {})
    if refusal:
        text = text or refusal
        return ChatAnswer(text, "refused", *tokens, ending)
    has_text = bool(text.strip())
    error = None if has_text else _explain_empty(ending, choice, message, usage)
    return ChatAnswer(text, ending.reason(has_text), *tokens, ending, error)


def parse_prompt_score(content: bytes, charset: str | None = None) -> PromptScore | None:
    """The prompt's log-probabilities as vLLM gives them, None where the server gave none.

    Raises like `read_answer`.
    """
    body = parse_body(content, charset)
    if error := _find_error(body):
        raise EmbeddedError(error)
    try:
        scored = _Scored.model_validate(body).prompt_logprobs
    except ValidationError as error:
        raise UnusableAnswer(
            f"the server's prompt_logprobs are not usable ({str(error).splitlines()[0]})"
        ) from None
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


def _get_choice(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first choice; raises for an error in its place, beside it or in it."""
    choices = body.get("choices")
    if isinstance(choices, Mapping):
        choices = [choices]
    error = _find_error(body)
    if not choices:
        if error or "choices" not in body:
            raise EmbeddedError(error) if error else _make_unknown_form_error(body)
        raise RetryableError("the server's answer has no choices")
    if not isinstance(choices, Sequence) or not isinstance(choices[0], Mapping):
        raise UnusableAnswer(
            "the server's answer is not usable: choices is "
            f"{_describe_value(choices)}, no list of objects"
        )
    first: Mapping[str, Any] = choices[0]
    if error := error or _find_error_in_value(first.get("error")):
        raise EmbeddedError(error)
    return first


def _make_unknown_form_error(body: Mapping[str, Any]) -> Exception:
    """Some gateways send an error with status 200 and without the word: {"code", "message"}."""
    if any(isinstance(body.get(name), str) for name in ("message", "detail", "msg")):
        return EmbeddedError(body)
    return UnusableAnswer(
        f"the server's answer is not usable: it has no choices, but {_list_keys(body)}; check that "
        "the URL in the model address is that of an OpenAI-compatible API, which usually ends in "
        "/v1"
    )


def _find_error(body: Mapping[str, Any]) -> object:
    """The error that a body describes, None where it describes none."""
    told = _find_error_in_value(body.get("error")) or _find_error_in_value(body.get("errors"))
    status = body.get("base_resp")  # MiniMax
    if told is None and isinstance(status, Mapping) and status.get("status_code"):
        return {"code": status["status_code"], "message": status.get("status_msg")}
    return told


def _find_error_in_value(told: object) -> object:
    if isinstance(told, Mapping):
        return (
            told
            if any(_find_error_in_value(value) is not None for value in told.values())
            else None
        )
    if isinstance(told, list):
        return next((error for error in map(_find_error_in_value, told) if error is not None), None)
    return None if told is None or str(told).strip().lower() in _NO_ERROR else told


def _find_finish_reason(choice: Mapping[str, Any]) -> object:
    for name in ("finish_reason", "finishReason", "stop_reason", "done_reason"):
        # vLLM writes the id of the last token into stop_reason.
        if choice.get(name) is not None and not isinstance(choice[name], int):
            return choice[name]
    return choice.get("finish_reason")


def _join_text(content: object, depth: int = 0) -> str:
    """The text in a message's content: a text, parts of text, or parts that hold such.

    Thoughts, images and calls of tools are no text. Raises `UnusableAnswer` for anything else.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        # Half a surrogate pair, which a model may say, is no text that can be kept.
        return content.encode("utf-8", "replace").decode() if not content.isascii() else content
    if isinstance(content, int | float) and not isinstance(content, bool):
        return json.dumps(content)
    if isinstance(content, list) and depth < _DEEPEST:
        return "".join(_join_text(part, depth + 1) for part in content)
    if isinstance(content, Mapping) and depth < _DEEPEST:
        if str(content.get("type", "")).lower() in _THOUGHT_PARTS or content.get("thought") is True:
            return ""
        for key in _TEXT_KEYS:
            if key in content:
                return _join_text(content[key], depth + 1)
        if "type" in content or not content:
            return ""
    raise UnusableAnswer(
        f"the model's answer is not usable: its content is {_describe_value(content)}, no text and "
        "no list of parts with text"
    )


def parse_token_counts(usage: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Tokens of prompt and answer, each None where it is not told or makes no sense.

    Some vendors leave a model's thoughts out of its answer's tokens, and bill them: so the total
    counts.
    """
    prompt = _find_count(usage, _PROMPT_TOKENS)
    completion = _find_count(usage, _COMPLETION_TOKENS)
    total = _parse_count(usage.get("total_tokens"))
    if total is not None and prompt is not None and total > prompt:
        completion = max(completion or 0, total - prompt)
    if total is not None and completion is not None and prompt is None and total > completion:
        prompt = total - completion
    return prompt, completion


def _find_count(usage: Mapping[str, Any], names: Sequence[str]) -> int | None:
    return next(
        (n for n in (_parse_count(usage.get(name)) for name in names) if n is not None), None
    )


def _parse_count(told: object) -> int | None:
    if isinstance(told, str):
        try:
            told = float(told)
        except ValueError:
            return None
    if isinstance(told, bool) or not isinstance(told, int | float):
        return None
    if not math.isfinite(told) or not 0 <= told <= _MOST_TOKENS:
        return None
    return math.ceil(told)


def _explain_empty(
    ending: Ending, choice: Mapping[str, Any], message: Mapping[str, Any], usage: object
) -> str:
    place = next((name for name in _THOUGHTS if message.get(name)), None)
    thought = place or ("content" if _has_thoughts(message.get("content")) else None)
    if ending.kind == "length":
        used = parse_token_counts(usage)[1] if isinstance(usage, Mapping) else None
        spent = f"all its {used} tokens" if used else "all its tokens"
        if thought or _has_reasoning_tokens(usage):
            return (
                f"the model spent {spent} on reasoning and did not come to an answer; raise "
                "sampling.max_tokens, or switch its reasoning off"
            )
        return f"the model spent {spent} and wrote no text; raise sampling.max_tokens"
    if ending.kind in ("filtered", "refused"):
        return f"the server withheld the answer (finish_reason {ending.word!r})"
    if ending.kind == "tool" or message.get("tool_calls") or message.get("function_call"):
        return "the model called a tool instead of answering; none was offered to it"
    if thought:
        return (
            f"the whole answer is in {place or 'the parts that hold thoughts'} and content is "
            "empty; switch off the server's reasoning parser, or the model's reasoning"
        )
    if ending.kind == "unknown":
        end = f"finish_reason {ending.word!r}, which is not known" if ending.word else "nothing"
        return f"the answer is empty, and about its end the server says {end}"
    return f"the model ended its answer without a text (finish_reason {ending.word!r})"


def _has_thoughts(content: object) -> bool:
    parts = content if isinstance(content, list) else [content]
    kinds = (part.get("type") for part in parts if isinstance(part, Mapping))
    return any(str(kind).lower() in _THOUGHT_PARTS for kind in kinds)


def _has_reasoning_tokens(usage: object) -> bool:
    details = usage.get("completion_tokens_details") if isinstance(usage, Mapping) else None
    return isinstance(details, Mapping) and bool(_parse_count(details.get("reasoning_tokens")))


def _describe_value(value: object) -> str:
    if isinstance(value, Mapping):
        return f"an object with {_list_keys(value)}"
    return repr(value)[:100]


def _list_keys(value: Mapping[str, Any]) -> str:
    return f"the keys {', '.join(map(repr, list(value)[:8]))}" if value else "no keys"


Kind = Literal["stop", "length", "filtered", "refused", "tool", "broken", "unknown"]

_WORDS: Mapping[Kind, str] = {
    "stop": "stop stopped s eos eos_token eos_found eog eog_token end ended end_turn end_of_turn "
    "turn_end end_of_sequence end_of_text endoftext end_token im_end stop_token stop_sequence "
    "stop_sequence_met stop_string stop_str stop_word stop_words stop_criteria stop_criteria_met "
    "stop_trigger matched_stop complete completed completion finish finished done success "
    "succeeded ok normal natural",
    "length": "length max_tokens max_output_tokens max_new_tokens max_completion_tokens "
    "max_tokens_reached max_length max_len max_model_len model_length token_limit "
    "token_limit_reached length_limit limit context_length context_length_exceeded "
    "context_window model_context_window_exceeded context_window_exceeded error_limit incomplete "
    "truncated max_predicted_tokens_reached",
    "filtered": "content_filter content_filtered filter filtered safety recitation blocklist "
    "prohibited_content spii blocked moderation moderated sensitive guardrail guardrail_intervened "
    "error_toxic toxic content_policy content_policy_violation policy_violation image_safety "
    "model_armor",
    "refused": "refusal refused",
    "tool": "tool_calls tool_call tool_use function_call function_calls malformed_function_call "
    "unexpected_tool_call",
    "broken": "error errored abort aborted cancel cancelled canceled user_cancel user_cancelled "
    "user_stopped model_unloaded "
    "timeout timed_out time_limit insufficient_system_resource insufficient_system_resources "
    "insufficient_resource insufficient_resources resource_exhausted out_of_memory oom overloaded "
    "engine_overloaded server_overloaded server_error internal_error internal_server_error "
    "engine_error model_error network_error connection_error failed failure fail interrupted "
    "interruption preempted evicted killed unavailable service_unavailable exception crashed "
    "rate_limit rate_limited",
}
_KINDS = {word: kind for kind, words in _WORDS.items() for word in words.split()}
_NOTHING = {"", "null", "none", "nil", "undefined", "unspecified"}
_PREFIX = re.compile(r"^(chat_?completion_?)?(finish|stop)_?reason_?[.:]?_*")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_LONGEST = 40


@dataclass(frozen=True, slots=True)
class Ending:
    """`word` is what the server wrote, short; "" where it wrote nothing.

    "tool": the model called a tool. "broken": the server could not finish the answer, and may do so
    next time. "unknown": nobody here knows the word, or there is none.
    """

    kind: Kind
    word: str

    def reason(self, has_text: bool) -> FinishReason:
        """The reason to store. A text that ended in an unknown way is an answer."""
        match self.kind:
            case "tool" | "unknown" | "broken":
                return "stop" if has_text or not self.word else "error"
            case known:
                return known


def parse_ending(told: object) -> Ending:
    """What a server's `finish_reason` means, whatever type it has."""
    if isinstance(told, Mapping):  # SGLang and TGI: {"type": "stop", "matched": 2}
        told = next((told[key] for key in ("type", "reason", "name") if key in told), None)
    if told is None:
        return Ending("unknown", "")
    written = str(told).strip()
    plain = re.sub(r"[^a-z0-9:.]+", "_", _CAMEL.sub("_", written).lower()).strip("_")
    plain = _PREFIX.sub("", plain)
    if plain in _NOTHING:
        return Ending("unknown", "")
    # Gemini writes "content_filter: RECITATION".
    head = re.split(r"[:.]", plain, maxsplit=1)[0].strip("_")
    kind = _KINDS.get(plain.strip("_.:")) or _KINDS.get(head) or "unknown"
    return Ending(kind, written[:_LONGEST])
