"""How many tokens a text can have at most, where nobody has counted them.

A tokenizer that can write any text needs at most one token per byte of UTF-8. Chat templates add a
few tokens per message, and some put a system prompt of their own before the conversation.
"""

from __future__ import annotations

from collections.abc import Iterable

from providers.types import Message

TOKENS_PER_MESSAGE = 16
TOKENS_PER_PROMPT = 128


def most_prompt_tokens(messages: Iterable[Message]) -> int:
    """At least as many tokens as any tokenizer and chat template make of a conversation."""
    return TOKENS_PER_PROMPT + sum(
        TOKENS_PER_MESSAGE + utf8_bytes(message.content) for message in messages
    )


def most_written_tokens(text: str, max_tokens: int, *, truncated: bool = False) -> int:
    """At least as many tokens as a model has used for `text`, whose end was not counted.

    An empty answer may have been thought about for as long as it was allowed to.
    """
    if truncated or not text:
        return max_tokens
    return min(max_tokens, utf8_bytes(text) + 1)


def utf8_bytes(text: str) -> int:
    """Length of `text` in bytes, also where it holds what no UTF-8 file can."""
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))
