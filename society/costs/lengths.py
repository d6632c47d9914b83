"""How many tokens texts have, estimated before any is sent: a low, an expected, a high number.

High is a bound. For a text it is its bytes, since a tokenizer that can write any text needs at most
one token per byte; for an answer it is `max_tokens`. Low and expected are guesses, which
`society cost` prints with its result.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from providers.usage import TOKENS_PER_MESSAGE, TOKENS_PER_PROMPT, utf8_bytes

# English prose has about 4 characters per token in common vocabularies, simple words more.
CHARACTERS_PER_TOKEN_LOW = 6.0
CHARACTERS_PER_TOKEN = 4.0
# Shares of max_tokens that a model writes, and what a usual answer to a word problem takes.
ANSWER_SHARE_LOW = 0.05
ANSWER_SHARE = 0.5
ANSWER_TOKENS = 350
# How much longer a quoted answer may become when it is tokenized again.
REREAD = 1.25


@dataclass(frozen=True, slots=True)
class Range:
    """Three numbers of the same unit: low <= expected <= high."""

    low: float
    expected: float
    high: float

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.expected + other.expected, self.high + other.high)

    def __mul__(self, times: float) -> Range:
        return Range(self.low * times, self.expected * times, self.high * times)


NOTHING = Range(0.0, 0.0, 0.0)
MESSAGE = Range(0.0, 4.0, TOKENS_PER_MESSAGE)
PROMPT = Range(0.0, 3.0, TOKENS_PER_PROMPT)


def exactly(number: float) -> Range:
    """A number that is known exactly."""
    return Range(number, number, number)


def sum_ranges(ranges: Iterable[Range]) -> Range:
    """The sum of each of the three numbers."""
    return sum(ranges, NOTHING)


def estimate_text(text: str) -> Range:
    """Tokens of a known text."""
    return Range(
        len(text) / CHARACTERS_PER_TOKEN_LOW,
        len(text) / CHARACTERS_PER_TOKEN,
        max(utf8_bytes(text), len(text) / CHARACTERS_PER_TOKEN),
    )


def estimate_answer(max_tokens: int, usual: int | None = None) -> Range:
    """Tokens of a text that a model will write; `usual` is what the user expects."""
    expected = min(ANSWER_SHARE * max_tokens, ANSWER_TOKENS) if usual is None else usual
    expected = min(max(1.0, expected), max_tokens)
    return Range(min(max(1.0, ANSWER_SHARE_LOW * max_tokens), expected), expected, max_tokens)


def estimate_reread(answer: Range) -> Range:
    """Tokens of an answer that a later prompt quotes.

    A tokenizer may split a text otherwise than the model wrote it, so high leaves some room.
    """
    return Range(answer.low, answer.expected, REREAD * answer.high + TOKENS_PER_MESSAGE)
