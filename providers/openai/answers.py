"""A chat completion, checked and brought into our terms: its text, its end, its tokens.

Servers agree on `choices[0].message.content` and on little else. Every deviation is handled, and
its server named, at the place where it is read.

The words for an answer's end are those of OpenAI, Azure, Gemini, Mistral, Cohere, DeepSeek,
Moonshot, Zhipu, Together, Bedrock, OpenRouter, vLLM, SGLang, TGI, llama.cpp, Ollama, LM Studio and
TensorRT-LLM (from their documentation and sources, November 2026). Case, dashes and camelCase make
no difference.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from providers.errors import RetryableError, UnusableAnswer
from providers.openai.billing import parse_count, parse_token_counts
from providers.openai.response_bodies import parse_body
from providers.types import FinishReason, Message, Sampling
from providers.usage import Usage, most_prompt_tokens, most_written_tokens

Kind = Literal["stop", "length", "filtered", "refused", "tool", "broken", "unknown"]

_THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thoughts", "reasoning_details")
_THOUGHT_PARTS = {"thinking", "redacted_thinking", "reasoning", "reasoning_text", "thought"}
# A body that contains one of these has more model output than the answer's text.
_THOUGHT_MARKS = (b'"reasoning', b'"thinking', b'"thought')
_THOUGHT_KEYS = ("text", "thinking", "reasoning", "reasoning_text", "summary", "content", "parts")
_TEXT_KEYS = ("text", "output_text", "content", "value", "parts")
_DEEPEST = 8
# Values of `error` beside a good answer that do not mean an error.
_NO_ERROR = {"", "0", "200", "ok", "success", "none", "null", "false"}

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
_LONGEST_WORD = 40


@dataclass(frozen=True, slots=True)
class Ending:
    """How an answer ended. `word` is what the server wrote, shortened; "" if it wrote nothing.

    "tool": the model called a tool. "broken": the server could not finish the answer and may
    succeed next time. "unknown": the word is not in the table, or there is none.
    """

    kind: Kind
    word: str

    def finish_reason(self, has_text: bool) -> FinishReason:
        """The reason to store. A text with an unknown ending counts as a complete answer."""
        match self.kind:
            case "tool" | "unknown" | "broken":
                return "stop" if has_text or not self.word else "error"
            case known:
                return known


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """A model's answer. A token count is None if the server does not report it.

    `ending` is how the answer ended by the server's account; `error` says why there is no text.
    `thought` is what the model thought, if the server returns it apart from the text.
    """

    text: str
    finish_reason: FinishReason
    prompt_tokens: int | None
    completion_tokens: int | None
    ending: Ending
    error: str | None = None
    thought: str | None = None

    def infer_truncation(self, sampling: Sampling) -> ChatAnswer:
        """The answer, marked as truncated if it used all its tokens and its end is unknown."""
        used_up = (self.completion_tokens or 0) >= sampling.max_tokens
        if self.ending.kind != "unknown" or not used_up or self.finish_reason == "refused":
            return self
        ending = Ending("length", self.ending.word)
        return replace(self, finish_reason="length", ending=ending)


class EmbeddedError(Exception):
    """A response with a good HTTP status describes an error; `body` is that description."""

    def __init__(self, body: object) -> None:
        super().__init__("the server's answer holds an error")
        self.body = body


def parse_answer(content: bytes, charset: str | None = None) -> ChatAnswer:
    """The answer in a chat completion with one choice.

    A truncated, filtered, refused or empty answer is an answer. Raises `EmbeddedError`;
    `RetryableError` if the body is cut, no JSON, or the server broke the answer off;
    `UnusableAnswer` if it has another form.

    >>> body = b'{"choices": [{"message": {"content": "4"}, "finish_reason": "stop"}]}'
    >>> parse_answer(body).text
    '4'
    """
    body = parse_body(content, charset)
    choice = _get_choice(body)
    message = choice.get("message") or choice.get("delta") or {}
    if not isinstance(message, Mapping):
        message = {"content": message}
    ending = parse_ending(_find_finish_reason(choice))
    # Some servers send what they have with an ending like "abort". Half an answer is no answer.
    if ending.kind == "broken":
        raise RetryableError(f"the server broke the answer off (finish_reason {ending.word!r})")
    text = _join_text(message.get("content"))
    # The form of the older completions endpoint.
    if not text and choice.get("text"):
        text = _join_text(choice["text"])
    refusal = _join_text(message.get("refusal"))
    usage = body.get("usage")
    tokens = parse_token_counts(usage if isinstance(usage, Mapping) else {})
    thought = _find_thought(message)
    if refusal:
        return ChatAnswer(text or refusal, "refused", *tokens, ending, thought=thought)
    has_text = bool(text.strip())
    error = None if has_text else _explain_empty(ending, choice, message, usage)
    return ChatAnswer(text, ending.finish_reason(has_text), *tokens, ending, error, thought)


def compute_usage(
    answer: ChatAnswer, content: bytes, messages: Sequence[Message], sampling: Sampling
) -> Usage:
    """What an answer is billed: the server's own counts, and an upper bound for missing ones.

    `content` is the body that the answer was parsed from. Counts of zero for a prompt or a text
    that exists are not believed.
    """
    completion = answer.completion_tokens
    if completion == 0 and answer.text:
        completion = None
    estimated = not answer.prompt_tokens or completion is None
    if completion is None:
        # Reasoning is billed like the answer, so with it the whole body is the bound.
        thinks = any(mark in content for mark in _THOUGHT_MARKS)
        written = content.decode("utf-8", "replace") if thinks else answer.text
        truncated = answer.finish_reason == "length"
        completion = most_written_tokens(written, sampling.max_tokens, truncated=truncated)
    return Usage(answer.prompt_tokens or most_prompt_tokens(messages), completion, estimated)


def parse_ending(reason: object) -> Ending:
    """What a server's `finish_reason` means, whatever type it has.

    >>> parse_ending("FinishReason.MAX_TOKENS").kind
    'length'
    """
    if isinstance(reason, Mapping):  # SGLang and TGI: {"type": "stop", "matched": 2}
        reason = next((reason[key] for key in ("type", "reason", "name") if key in reason), None)
    if reason is None:
        return Ending("unknown", "")
    written = str(reason).strip()
    plain = re.sub(r"[^a-z0-9:.]+", "_", _CAMEL.sub("_", written).lower()).strip("_")
    # Some servers send the name of an enumeration, such as "FinishReason.STOP".
    plain = _PREFIX.sub("", plain)
    if plain in _NOTHING:
        return Ending("unknown", "")
    # Gemini writes "content_filter: RECITATION".
    head = re.split(r"[:.]", plain, maxsplit=1)[0].strip("_")
    kind = _KINDS.get(plain.strip("_.:")) or _KINDS.get(head) or "unknown"
    return Ending(kind, written[:_LONGEST_WORD])


def find_error(body: Mapping[str, Any]) -> object:
    """The error that a body describes; None if it describes none."""
    error = _find_error_in(body.get("error")) or _find_error_in(body.get("errors"))
    status = body.get("base_resp")  # MiniMax
    if error is None and isinstance(status, Mapping) and status.get("status_code"):
        return {"code": status["status_code"], "message": status.get("status_msg")}
    return error


def _find_error_in(value: object) -> object:
    # Some servers send `"error": {"code": 0, "message": ""}` with every good answer.
    if isinstance(value, Mapping):
        has_error = any(_find_error_in(part) is not None for part in value.values())
        return value if has_error else None
    if isinstance(value, list):
        return next((error for error in map(_find_error_in, value) if error is not None), None)
    return None if value is None or str(value).strip().lower() in _NO_ERROR else value


def _get_choice(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first choice; raises for an error in its place, beside it or in it."""
    choices = body.get("choices")
    # A single choice may come without the list.
    if isinstance(choices, Mapping):
        choices = [choices]
    error = find_error(body)
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
    if error := error or _find_error_in(first.get("error")):
        raise EmbeddedError(error)
    return first


def _make_unknown_form_error(body: Mapping[str, Any]) -> Exception:
    # Some gateways send an error with status 200 and no "error" key: {"code", "message"}.
    if any(isinstance(body.get(name), str) for name in ("message", "detail", "msg")):
        return EmbeddedError(body)
    return UnusableAnswer(
        f"the server's answer is not usable: it has no choices, but {_list_keys(body)}; check that "
        "the URL in the model address is that of an OpenAI-compatible API, which usually ends in "
        "/v1"
    )


def _find_finish_reason(choice: Mapping[str, Any]) -> object:
    for name in ("finish_reason", "finishReason", "stop_reason", "done_reason"):
        # vLLM writes the id of the last token into stop_reason.
        if choice.get(name) is not None and not isinstance(choice[name], int):
            return choice[name]
    return choice.get("finish_reason")


def _join_text(content: object, depth: int = 0) -> str:
    """The text in a message's content: a string, text parts, or parts that contain such parts.

    Reasoning, images and tool calls have no text. Raises `UnusableAnswer` for anything else.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        # A model may write half a surrogate pair, which no file or database can store.
        return content.encode("utf-8", "replace").decode() if not content.isascii() else content
    if isinstance(content, int | float) and not isinstance(content, bool):
        return json.dumps(content)
    if isinstance(content, list) and depth < _DEEPEST:
        return "".join(_join_text(part, depth + 1) for part in content)
    if isinstance(content, Mapping) and depth < _DEEPEST:
        if _is_thought_part(content):
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


def _find_thought(message: Mapping[str, Any]) -> str | None:
    """The model's thought where the server returns it apart from the text, under any name."""
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    found = [message.get(name) for name in _THOUGHTS]
    # Several names may hold the same thought, as OpenRouter's and vLLM's do.
    for value in (*found, [part for part in parts if _is_thought_part(part)]):
        if thought := _join_thought(value).strip():
            return thought
    return None


def _join_thought(value: object, depth: int = 0) -> str:
    """The text in whatever form a server gives a thought; "" for encrypted and unknown ones."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list) and depth < _DEEPEST:
        return "".join(_join_thought(part, depth + 1) for part in value)
    if isinstance(value, Mapping) and depth < _DEEPEST:
        for key in _THOUGHT_KEYS:
            if thought := _join_thought(value.get(key), depth + 1):
                return thought
    return ""


def _is_thought_part(part: object) -> bool:
    if not isinstance(part, Mapping):
        return False
    return str(part.get("type", "")).lower() in _THOUGHT_PARTS or part.get("thought") is True


def _explain_empty(
    ending: Ending, choice: Mapping[str, Any], message: Mapping[str, Any], usage: object
) -> str:
    """Why an answer has no text, and what to do about it."""
    place = next((name for name in _THOUGHTS if message.get(name)), None)
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    thought = place or ("content" if any(map(_is_thought_part, parts)) else None)
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
            f"the whole answer is in {place or 'the parts with reasoning'} and content is empty; "
            "switch off the server's reasoning parser, or the model's reasoning"
        )
    if ending.kind == "unknown":
        if not ending.word:
            return "the answer is empty and has no finish_reason"
        return f"the answer is empty, with finish_reason {ending.word!r}, which is not known"
    return f"the model ended its answer without a text (finish_reason {ending.word!r})"


def _has_reasoning_tokens(usage: object) -> bool:
    details = usage.get("completion_tokens_details") if isinstance(usage, Mapping) else None
    return isinstance(details, Mapping) and bool(parse_count(details.get("reasoning_tokens")))


def _describe_value(value: object) -> str:
    if isinstance(value, Mapping):
        return f"an object with {_list_keys(value)}"
    return repr(value)[:100]


def _list_keys(value: Mapping[str, Any]) -> str:
    return f"the keys {', '.join(map(repr, list(value)[:8]))}" if value else "no keys"
