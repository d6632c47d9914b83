"""A learnt conversation as one line of JSON, in the shapes that trainers read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal, Protocol

ChatFormat = Literal["chat", "sharegpt"]
_SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt"}


class LineFormatter(Protocol):
    """Makes a line (without its end) of a prompt as stored (JSON) and the response to it."""

    def __call__(self, messages: str, response: str, *, loss_on_all: bool) -> str: ...


def format_chat(messages: str, response: str, *, loss_on_all: bool) -> str:
    """{"messages": [{"role", "content"}, ...]}: the shape of chat fine-tuning APIs.

    Assistant messages carry "weight" 1 where the loss falls on them, otherwise 0.
    """
    turns: list[dict[str, object]] = []
    for message in json.loads(messages):
        turn: dict[str, object] = {"role": message["role"], "content": message["content"]}
        if message["role"] == "assistant":
            turn["weight"] = int(loss_on_all)
        turns.append(turn)
    turns.append({"role": "assistant", "content": response, "weight": 1})
    return json.dumps({"messages": turns}, ensure_ascii=False)


def format_sharegpt(messages: str, response: str, *, loss_on_all: bool) -> str:
    """{"conversations": [{"from", "value"}, ...]} with "system", "human" and "gpt".

    The shape has no place for weights: where not all of an agent's turns are learnt, the reader has
    to train on the last one only.
    """
    turns = [
        {"from": _SPEAKERS.get(message["role"], message["role"]), "value": message["content"]}
        for message in json.loads(messages)
    ]
    turns.append({"from": "gpt", "value": response})
    return json.dumps({"conversations": turns}, ensure_ascii=False)


CHAT_FORMATS: Mapping[ChatFormat, LineFormatter] = {
    "chat": format_chat,
    "sharegpt": format_sharegpt,
}
