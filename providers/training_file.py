"""Training data as a file of JSON lines, in a vendor's own shape, on the way to the vendor."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from providers.errors import InvalidTrainingData
from providers.types import Example

FormatExample = Callable[[Example, int], Mapping[str, object]]
"""The line for an example, whose number (from 1) is for errors. Raises `InvalidTrainingData` for
what the vendor's format cannot express."""


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file ready to be uploaded: its path, its size in bytes, its number of lines."""

    path: Path
    bytes: int
    lines: int


def write_lines(
    examples: Iterable[Example], path: Path, format_example: FormatExample, max_bytes: int
) -> LocalFile:
    """Write `examples` to `path`, one at a time; the same examples give the same bytes. Blocks.

    Raises `InvalidTrainingData` for an example the format cannot express, and for a file of more
    than `max_bytes`.

        write_lines(spec.examples, Path("train.jsonl"), format_example, 10**9)
    """
    size, count = 0, 0
    with path.open("wb") as file:
        for count, example in enumerate(examples, start=1):
            size += file.write(_encode_line(format_example(example, count), count))
            if size > max_bytes:
                raise InvalidTrainingData(
                    f"the training file would have more than {max_bytes:,} bytes, the most the "
                    "server takes; set datasets.max_examples, or train on fewer questions"
                )
    return LocalFile(path, size, count)


def require_no_judgement(example: Example, number: int) -> None:
    """Raise `InvalidTrainingData` for a single answer with a judgement, which no vendor takes."""
    if example.wanted is not None:
        raise InvalidTrainingData(
            f"training example {number} is a single answer with a judgement, which the format "
            "cannot express"
        )


def require_trained_answers(example: Example, number: int) -> None:
    """Raise `InvalidTrainingData` unless the loss is on assistant messages, one at least."""
    answers = {n for n, message in enumerate(example.messages) if message.role == "assistant"}
    if not example.loss_on or not answers.issuperset(example.loss_on):
        raise InvalidTrainingData(
            f"training example {number} puts the loss on messages {sorted(example.loss_on)}, which "
            "are not assistant messages of it"
        )


def _encode_line(line: Mapping[str, object], number: int) -> bytes:
    try:
        return (json.dumps(line, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError as error:
        raise InvalidTrainingData(
            f"training example {number} holds text that is not valid Unicode: {error.reason}"
        ) from error
