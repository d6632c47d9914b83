"""From the tokens that a model has drawn to the text of its answer and its thought."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from providers.local.conversation import decode_answer
from providers.local.thoughts import LONGEST_OPENING, find_closing


def read_answer(
    tokenizer: Any, prompt: Sequence[int], tokens: Sequence[int], stops: Sequence[str]
) -> tuple[str, str | None]:
    """Text and thought of the answer that `tokens` are, without the token that ended it.

    The text ends before the first of the stop strings. Without an end of the thought that the
    prompt has opened, all is thought, and the text is empty.
    """
    text = decode_answer(tokenizer, tokens)
    for stop in stops:
        text = text.partition(stop)[0]
    opening = tokenizer.decode(prompt[-LONGEST_OPENING:], skip_special_tokens=False)
    if text and (closing := find_closing(opening)) is not None and closing not in text:
        # Nothing in the text shows that it is a thought: its opening stands in the prompt.
        return "", text
    return text, None
