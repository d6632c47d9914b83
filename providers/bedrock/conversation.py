"""A conversation in Converse's form, which the training data of Nova have too.

https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html: system prompts
stand apart, and the roles alternate, beginning with the user. Messages of one role that follow each
other become one message with a text block for each, so no text changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypedDict

from providers.errors import BadRequest
from providers.types import Message


class TextBlock(TypedDict):
    """A piece of text of a message."""

    text: str


class ConverseMessage(TypedDict):
    """A message with its blocks, as botocore takes it."""

    role: str
    content: list[TextBlock]


@dataclass(frozen=True, slots=True)
class Conversation:
    """System prompts, and messages whose roles alternate."""

    system: list[TextBlock]
    messages: list[ConverseMessage]


def convert_messages(messages: Sequence[Message]) -> Conversation:
    """The messages in Converse's form.

    Raises `BadRequest` for what has none: no user's message at the beginning, a system prompt after
    it, a message without text.

    >>> convert_messages([Message("user", "1+1?"), Message("user", "Briefly.")]).messages
    [{'role': 'user', 'content': [{'text': '1+1?'}, {'text': 'Briefly.'}]}]
    """
    for number, message in enumerate(messages, 1):
        if not message.content.strip():
            raise BadRequest(
                f"message {number} ({message.role}) has no text, which Bedrock refuses; "
                "correct the prompt"
            )
    first = next((n for n, m in enumerate(messages) if m.role != "system"), len(messages))
    system = [TextBlock(text=message.content) for message in messages[:first]]
    turns = [
        ConverseMessage(role=role, content=[TextBlock(text=message.content) for message in group])
        for role, group in groupby(messages[first:], key=lambda message: message.role)
    ]
    if not turns or turns[0]["role"] != "user":
        raise BadRequest(
            "the conversation does not begin with a user's message, as Bedrock wants it; correct "
            "the prompt"
        )
    if any(turn["role"] == "system" for turn in turns):
        raise BadRequest(
            "a system prompt follows other messages, and Bedrock takes system prompts at the "
            "beginning only; correct the prompt"
        )
    return Conversation(system, turns)
