"""How an answer ended: what servers of OpenAI's shape write as `finish_reason`, in our terms.

The words are those of OpenAI, Azure, Gemini, Mistral, Cohere, DeepSeek, Moonshot, Zhipu, Together,
Bedrock, OpenRouter, vLLM, SGLang, TGI, llama.cpp, Ollama, LM Studio and TensorRT-LLM (read in their
documentation and sources, November 2026). Upper and lower case, dashes and camelCase are the same
word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from providers.base import FinishReason

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


def read_ending(told: object) -> Ending:
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
