"""Training conversations as the file a fine-tuning job of the OpenAI shape reads.

One line per conversation: ``{"messages": [{"role": …, "content": …}, …]}``. Every assistant message
bears ``weight``: 1 where it is learnt, 0 where it is context only. The format is that of
`FineTuneChatRequestInput` in https://github.com/openai/openai-openapi.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from providers.base import Example
from providers.errors import InvalidTrainingData

MAX_BYTES = 512 * 1000 * 1000


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file ready to be sent: where it lies, its size in bytes, its number of lines."""

    path: Path
    bytes: int
    lines: int


def write_training_file(
    examples: Iterable[Example], path: Path, max_bytes: int = MAX_BYTES
) -> LocalFile:
    """Write `examples` to `path`, one at a time; the same examples give the same bytes. Blocks.

    Raises `InvalidTrainingData` for an example that cannot be told, or more than `max_bytes`.
    """
    size, count = 0, 0
    with path.open("wb") as file:
        for count, example in enumerate(examples, start=1):
            size += file.write(_line(example, count))
            if size > max_bytes:
                raise InvalidTrainingData(
                    f"the training file would have more than {max_bytes:,} bytes, the most the "
                    "server takes; set datasets.max_examples, or train on fewer questions"
                )
    return LocalFile(path, size, count)


def _line(example: Example, number: int) -> bytes:
    learnt = set(example.learn)
    messages: list[dict[str, str | int]] = []
    for index, message in enumerate(example.messages):
        turn: dict[str, str | int] = {"role": message.role, "content": message.content}
        if message.role == "assistant":
            turn["weight"] = int(index in learnt)
            learnt.discard(index)
        messages.append(turn)
    if learnt or not example.learn:
        raise InvalidTrainingData(
            f"training example {number} learns messages {sorted(example.learn)}, which are not "
            "assistant messages of it"
        )
    try:
        return (json.dumps({"messages": messages}, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError as error:
        raise InvalidTrainingData(
            f"training example {number} holds text that is not valid Unicode: {error.reason}"
        ) from error
