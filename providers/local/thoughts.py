"""Thoughts in the terms of chat templates: those that the prompt opens, and those in channels.

What a thought is among all that models write is told by `evals.answers.thoughts`; here it only
matters where a template needs to be told.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

CHANNEL = "<|channel|>"
"""Marks the parts of an answer in OpenAI's harmony format, which gpt-oss writes."""

# https://developers.openai.com/cookbook/articles/openai-harmony, read 2026-11-29. A header may name
# a recipient or a format between the channel and the message.
_PART = re.compile(
    r"<\|channel\|>\s*(?P<name>\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>"
    r"(?P<text>.*?)(?=<\|(?:end|start|channel|return|call)\|>|\Z)",
    re.DOTALL,
)
# What opens a thought at the end of a prompt, as far as published templates do that.
_OPENED = re.compile(
    r"(?: <(?P<tag>(?:seed:|longcat_)?(?:think(?:ing)?|thought|reason(?:ing)?))> "
    r"| (?P<capital>\[THINK\]) | (?P<kimi>◁think▷) | (?P<cohere><\|START_THINKING\|>)"
    r"| (?P<pipe><\|begin_of_thought\|>) | (?P<gemma><\|channel>thought) ) \s* \Z",
    re.VERBOSE,
)
_CLOSINGS = {
    "capital": "[/THINK]",
    "kimi": "◁/think▷",
    "cohere": "<|END_THINKING|>",
    "pipe": "<|end_of_thought|>",
    "gemma": "<channel|>",
}
LONGEST_OPENING = 16
"""Tokens at the end of a prompt that may open a thought."""


@dataclass(frozen=True, slots=True)
class ChannelParts:
    """An answer in channels: the text of its final channel, "" without one, and of all others."""

    thought: str
    final: str


def split_channels(content: str) -> ChannelParts:
    """The parts of an answer in the harmony format.

    >>> split_channels("<|channel|>analysis<|message|>3+4<|end|><|channel|>final<|message|>7")
    ChannelParts(thought='3+4', final='7')
    """
    parts = [(part["name"], part["text"]) for part in _PART.finditer(content)]
    finals = [text for name, text in parts if name == "final"]
    thoughts = [text for name, text in parts if name != "final"]
    return ChannelParts("\n".join(thoughts), finals[-1] if finals else "")


def find_closing(prompt: str) -> str | None:
    """What closes the thought that the end of `prompt` opens; None if it opens none.

    >>> find_closing("<|Assistant|><think>\\n")
    '</think>'
    """
    opened = _OPENED.search(prompt)
    if opened is None:
        return None
    if opened["tag"] is not None:
        return f"</{opened['tag']}>"
    return _CLOSINGS[next(name for name in _CLOSINGS if opened[name] is not None)]
