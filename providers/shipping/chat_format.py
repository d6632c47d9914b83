"""What an exported model folder says of conversations: its turns, and what ends an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from providers.shipping.turns import Conversation, TurnFormat, find_turns


def read_turns(
    folder: Path, arguments: Mapping[str, Any] = {}
) -> tuple[TurnFormat | None, tuple[str, ...]]:
    """The format of the chat template in a model folder, None if it has none, and the stop texts.

    `arguments` are further values for the template. The token that begins a text is left out:
    engines write it themselves.
    """
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))

    def render(conversation: Conversation, asks: bool) -> str:
        messages = [{"role": role, "content": content} for role, content in conversation]
        return str(
            tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=asks, **arguments
            )
        )

    found = find_turns(render)
    begin = tokenizer.bos_token
    if found is not None and begin and found.start.startswith(begin):
        found = replace(found, start=found.start.removeprefix(begin))
    # The template's own end of a turn is what training has taught.
    ends = {str(tokenizer.eos_token or "")}
    if found is not None:
        ends.add(found.around["assistant"][1].strip())
    return found, tuple(sorted(ends - {""}))
