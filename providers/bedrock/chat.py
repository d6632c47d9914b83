"""Chat through Converse: one request through limits and retries to one checked answer.

BedrockProvider.complete → ConverseChat.complete → Limiter.call → one HTTP request in a thread
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from providers.bedrock.client import BedrockConnection
from providers.bedrock.conversation import convert_messages
from providers.bedrock.errors import read_billed
from providers.bedrock.nova import is_nova
from providers.bedrock.settings import BedrockSettings
from providers.calling import UnreadableAnswer, attempt_paid
from providers.limits import CallContext, Limiter
from providers.types import Completion, FinishReason, Message, Request, Sampling
from providers.usage import (
    Usage,
    current_attempts,
    most_prompt_tokens,
    most_written_tokens,
)

_log = logging.getLogger(__name__)
_CHARACTERS_PER_TOKEN = 4
# "reasoning content is redacted in the output and displays as [REDACTED]"
_HIDDEN = "[REDACTED]"
_ENDINGS: Mapping[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "guardrail_intervened": "filtered",
    "content_filtered": "filtered",
    "tool_use": "error",
    "malformed_tool_use": "error",
    "malformed_model_output": "error",
}
_REMEDIES = {
    "guardrail_intervened": "the guardrail of [provider] has stopped the answer",
    "content_filtered": "Bedrock has withheld the answer",
    "tool_use": "the model called a tool instead of answering; none was offered to it",
    "malformed_tool_use": "the model called a tool instead of answering; none was offered to it",
    "malformed_model_output": "the model's answer has no known form",
    "max_tokens": "the model spent all its tokens and wrote no text; raise sampling.max_tokens",
}


class ConverseChat:
    """Asks the models of one connection.

    chat = ConverseChat(connection, settings, limiter, "amazon.nova-micro-v1:0")
    completion = await chat.complete(request, "amazon.nova-micro-v1:0")
    """

    def __init__(
        self,
        connection: BedrockConnection,
        settings: BedrockSettings,
        limiter: Limiter,
        model: str,
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._limiter = limiter
        self._nova = is_nova(model)
        self._warnings: set[str] = set()

    async def complete(self, request: Request, model_id: str) -> Completion:
        """The answer of `model_id` (a model, a profile, or a deployment's ARN) to the request."""
        parameters = self._build_parameters(request, model_id)
        work = partial(
            attempt_paid,
            partial(self._send, request, parameters),
            self._connection.translate,
        )
        tokens = request.sampling.max_tokens + sum(
            len(message.content) // _CHARACTERS_PER_TOKEN for message in request.messages
        )
        subject = next((m.content for m in request.messages if m.role == "user"), "")
        context = CallContext(model_id, subject, request.again)
        return await self._limiter.call(work, tokens, context, current_attempts.get())

    def _build_parameters(self, request: Request, model_id: str) -> dict[str, object]:
        conversation = convert_messages(request.messages)
        parameters: dict[str, object] = {
            "modelId": model_id,
            "messages": conversation.messages,
            "inferenceConfig": _build_inference(request.sampling),
        }
        if conversation.system:
            parameters["system"] = conversation.system
        if more := self._build_extras(request.sampling):
            parameters["additionalModelRequestFields"] = more
        if self._settings.guardrail is not None:
            parameters["guardrailConfig"] = {
                "guardrailIdentifier": self._settings.guardrail,
                "guardrailVersion": self._settings.guardrail_version,
            }
        return parameters

    def _build_extras(self, sampling: Sampling) -> dict[str, object]:
        """What Nova takes beside the parameters that all models of Converse have."""
        extras: dict[str, object] = {}
        if sampling.top_k and self._nova:
            extras["inferenceConfig"] = {"topK": sampling.top_k}
        # The factory has refused it for models that do not reason.
        if effort := self._settings.reasoning_effort:
            extras["reasoningConfig"] = {"type": "enabled", "maxReasoningEffort": effort}
        return extras

    async def _send(
        self, request: Request, parameters: Mapping[str, object]
    ) -> tuple[Completion, Usage]:
        began = time.perf_counter()
        answer = await self._connection.call(self._connection.runtime.converse, **parameters)
        return self._parse(request, answer, (time.perf_counter() - began) * 1000.0)

    def _parse(
        self, request: Request, answer: Mapping[str, Any], latency_ms: float
    ) -> tuple[Completion, Usage]:
        message = (answer.get("output") or {}).get("message") or {}
        blocks = message.get("content")
        reason = str(answer.get("stopReason") or "")
        if not isinstance(blocks, list) or not reason:
            raise UnreadableAnswer("Bedrock's answer has no message or no stopReason")
        text, thought = join_texts(blocks), join_thoughts(blocks)
        finish = _ENDINGS.get(reason)
        if finish is None:
            self._warn_once(
                f"answers end with stopReason {reason!r}, which is not known; they are taken as "
                "complete"
            )
        error = None
        if not text or finish in ("filtered", "error"):
            error = _explain(reason, reasoned=any("reasoningContent" in block for block in blocks))
        # The text is the guardrail's own message, which no model has written.
        if reason == "guardrail_intervened":
            text, error = "", f"{error}: {text[:200]!r}" if text else error
        usage = read_billed(answer.get("usage") or {}) or _bound_usage(request, text, finish)
        redact = self._connection.secrets.redact_answer
        completion = Completion(
            redact(text),
            finish or "stop",
            usage.prompt_tokens,
            usage.completion_tokens,
            latency_ms,
            error,
            usage.estimated,
            redact(thought) if thought else None,
        )
        return completion, usage

    def _warn_once(self, text: str) -> None:
        if text not in self._warnings:
            self._warnings.add(text)
            _log.warning("%s", text)


def find_refused_sampling(sampling: Sampling, model: str) -> list[str]:
    """What Converse cannot honor in it, each with its remedy."""
    taken = {"stop", "top_k"} if is_nova(model) else {"stop"}
    problems = [
        f"sampling.{name} = {value!r}: bedrock:{model} does not take it; remove it"
        for name, value in sampling.list_extras().items()
        if name not in taken
    ]
    if sampling.temperature > 1.0:
        problems.append(
            f"sampling.temperature = {sampling.temperature}: Bedrock takes at most 1; lower it"
        )
    return problems


def join_texts(blocks: Sequence[Mapping[str, Any]]) -> str:
    """The text of an answer, without its reasoning."""
    return "".join(block["text"] for block in blocks if isinstance(block.get("text"), str))


def join_thoughts(blocks: Sequence[Mapping[str, Any]]) -> str | None:
    """What the model thought; None if it shows nothing of it, as Nova does."""
    found = [(block.get("reasoningContent") or {}).get("reasoningText") or {} for block in blocks]
    texts = [str(part.get("text") or "") for part in found]
    return "".join(text for text in texts if text.strip() != _HIDDEN) or None


def _build_inference(sampling: Sampling) -> dict[str, object]:
    config: dict[str, object] = {
        "maxTokens": sampling.max_tokens,
        "temperature": float(sampling.temperature),
    }
    # Some models take one of the two only, and 1 is what is meant without it.
    if sampling.top_p < 1.0:
        config["topP"] = float(sampling.top_p)
    if sampling.stop:
        config["stopSequences"] = list(sampling.stop)
    return config


def _explain(reason: str, *, reasoned: bool) -> str:
    if reasoned and reason == "max_tokens":
        return (
            "the model spent all its tokens on reasoning and did not come to an answer; raise "
            "sampling.max_tokens, or lower provider.reasoning_effort"
        )
    cause = _REMEDIES.get(reason, "the model ended its answer without a text")
    return f"{cause} (stopReason {reason!r})"


def _bound_usage(request: Request, text: str, finish: FinishReason | None) -> Usage:
    messages: Sequence[Message] = request.messages
    written = most_written_tokens(text, request.sampling.max_tokens, truncated=finish == "length")
    return Usage(most_prompt_tokens(messages), written, estimated=True)
