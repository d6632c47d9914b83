"""An answer of Gemini in our terms: its text, its end, its tokens.

https://cloud.google.com/vertex-ai/generative-ai/docs/reference/rest/v1/GenerateContentResponse
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from google.genai import types

from providers.errors import BadRequest, UnusableAnswer
from providers.secrets import Secrets
from providers.types import Completion, FinishReason, Message, Request
from providers.usage import Usage, most_prompt_tokens, most_written_tokens

# What is not here and not below is "stop" if there is a text: a vendor may add words.
_ENDINGS: Mapping[str, FinishReason] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "filtered",
    "RECITATION": "filtered",
    "BLOCKLIST": "filtered",
    "PROHIBITED_CONTENT": "filtered",
    "SPII": "filtered",
    "MODEL_ARMOR": "filtered",
    "LANGUAGE": "filtered",
}


def parse_answer(
    response: types.GenerateContentResponse, request: Request, latency_ms: float, secrets: Secrets
) -> tuple[Completion, Usage]:
    """The completion in a response, and what it is billed.

    A blocked prompt, a stop for safety or recitation, and an empty candidate are answers without a
    text: `error` has Google's own word. Raises `UnusableAnswer` for a response that has neither a
    candidate nor a reason for its absence.
    """
    candidate = response.candidates[0] if response.candidates else None
    if candidate is None:
        return _parse_blocked(response, request, latency_ms, secrets)
    text, thought = _join_parts(candidate)
    word = _name(candidate.finish_reason)
    ending = _ENDINGS.get(word, "stop" if text.strip() else "error")
    usage = _compute_usage(response, request, text, ending)
    error = None if text.strip() else _explain_empty(candidate, word, response.usage_metadata)
    completion = Completion(
        secrets.redact_answer(text),
        ending,
        usage.prompt_tokens,
        usage.completion_tokens,
        latency_ms,
        error and secrets.quote(error),
        usage.estimated,
        secrets.redact_answer(thought) if thought else None,
    )
    return completion, usage


def _parse_blocked(
    response: types.GenerateContentResponse, request: Request, latency_ms: float, secrets: Secrets
) -> tuple[Completion, Usage]:
    feedback = response.prompt_feedback
    if feedback is None or feedback.block_reason is None:
        raise UnusableAnswer("Google answered without a candidate and without a reason for it")
    usage = _compute_usage(response, request, "", "filtered")
    error = f"the prompt is blocked: {_name(feedback.block_reason)}"
    if feedback.block_reason_message:
        error += f" ({feedback.block_reason_message})"
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    answer = Completion(
        "", "filtered", prompt, completion, latency_ms, secrets.quote(error), usage.estimated
    )
    return answer, usage


def _join_parts(candidate: types.Candidate) -> tuple[str, str]:
    """The text and the thought."""
    parts = (candidate.content.parts if candidate.content else None) or []
    texts = [(part.text or "", bool(part.thought)) for part in parts]
    text = "".join(text for text, thought in texts if not thought)
    return text, "".join(text for text, thought in texts if thought)


def _explain_empty(
    candidate: types.Candidate,
    word: str,
    counts: types.GenerateContentResponseUsageMetadata | None,
) -> str:
    """Why there is no text."""
    thoughts = (counts.thoughts_token_count if counts else None) or 0
    if word == "MAX_TOKENS" and thoughts:
        return (
            f"all tokens went into thoughts ({thoughts}); raise sampling.max_tokens, or lower "
            "provider.thinking_budget"
        )
    said = f" ({candidate.finish_message})" if candidate.finish_message else ""
    return f"no text, finish reason {word or 'missing'}{said}"


def _compute_usage(
    response: types.GenerateContentResponse, request: Request, text: str, ending: FinishReason
) -> Usage:
    """What is billed: Google counts thoughts apart from the answer, and bills them like it."""
    counts = response.usage_metadata or types.GenerateContentResponseUsageMetadata()
    prompt = counts.prompt_token_count
    written = (counts.candidates_token_count or 0) + (counts.thoughts_token_count or 0)
    if prompt is not None and counts.total_token_count is not None:
        used = prompt + (counts.tool_use_prompt_token_count or 0)
        written = max(written, counts.total_token_count - used)
    # A count of zero for a prompt or a text that exists is not believed.
    estimated = not prompt or (bool(text) and not written)
    if not estimated:
        return Usage(prompt or 0, written)
    bound = 0
    if response.candidates:
        most = request.sampling.max_tokens
        bound = most_written_tokens(text, most, truncated=ending == "length")
    return Usage(prompt or most_prompt_tokens(request.messages), written or bound, True)


def _name(value: object) -> str:
    """Google's own word, also one that this version of the package does not know."""
    return str(getattr(value, "value", None) or value or "")


def split_messages(
    messages: Sequence[Message],
) -> tuple[str | None, list[types.Content]]:
    """The system instruction, and the conversation with the roles "user" and "model".

    Raises `BadRequest` for a conversation that has none.

    >>> split_messages([Message("system", "Be brief."), Message("user", "1+1?")])[0]
    'Be brief.'
    """
    first = next((n for n, m in enumerate(messages) if m.role != "system"), len(messages))
    if first == len(messages):
        raise BadRequest("a conversation of system messages only cannot be answered")
    system = "\n\n".join(message.content for message in messages[:first])
    contents = [
        types.Content(role=name_role(message), parts=[types.Part(text=message.content)])
        for message in messages[first:]
    ]
    return system or None, contents


def name_role(message: Message) -> str:
    """Google's name of a message's role. A system message that does not stand first counts as the
    user's, since Google takes none there."""
    return "model" if message.role == "assistant" else "user"
