"""A transcript file of either format, recognised by what is in it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evals.tasks.sources.text import read_text
from society.importing import contexts, lines
from society.importing.spoken import Spoken, TranscriptError
from store.records import Split, StageKey

_FORMATS = (
    'one JSON object per line with "question", "agent", "round" and "response", or one object '
    "{question: [contexts of the agents, gold]}; see docs/import.md"
)


def read(path: Path, split: Split, iteration: int | None) -> list[Spoken]:
    """All responses of the file. Raises `TranscriptError` with everything that is wrong.

    `split` and `iteration` hold where the file does not say.
    """
    text = _text(path)
    problems: list[str] = []
    document = _document(text, str(path), problems)
    if document is None:
        found = lines.read(text.split("\n"), split, iteration, problems)
    else:
        first = 1 if split == "train" else 0
        stage = StageKey(first if iteration is None else iteration, split, "multiagent", "sampled")
        found = contexts.read(document, stage, problems)
    if problems:
        raise TranscriptError(str(path), problems)
    return found


def _text(path: Path) -> str:
    try:
        text = read_text(path, "the file")
    except ValueError as error:
        raise TranscriptError(str(path), [str(error)]) from error
    if not text.strip():
        raise TranscriptError(str(path), [f"the file is empty; it needs {_FORMATS}"])
    return text


def _document(text: str, source: str, problems: list[str]) -> dict[str, Any] | None:
    """The one object of the second format, or None where the file is lines of turns."""
    opening = next(line for line in text.split("\n") if line.strip())
    first = _parsed(opening)
    if _is_turn(first) or (not contexts.looks_like(first) and _has_turns(text)):
        return None
    repeated: list[str] = []
    try:
        whole = json.loads(text, object_pairs_hook=lambda pairs: _object(pairs, repeated))
    except (ValueError, RecursionError) as error:
        reason = "too deeply nested" if isinstance(error, RecursionError) else error
        raise TranscriptError(
            source, [f"neither of the two formats ({reason}); it needs {_FORMATS}"]
        ) from error
    if not contexts.looks_like(whole):
        raise TranscriptError(source, [f"neither of the two formats; it needs {_FORMATS}"])
    problems += [f"the question {key[:60]!r} is there twice; keep one" for key in repeated]
    return dict(whole)


def _is_turn(parsed: object) -> bool:
    known = lines.TurnLine.model_fields.keys()
    return (
        isinstance(parsed, dict)
        and not contexts.looks_like(parsed)
        and not known.isdisjoint(parsed)
    )


def _has_turns(text: str) -> bool:
    return any(_is_turn(_parsed(line)) for line in text.split("\n", 100)[:100])


def _parsed(line: str) -> object | None:
    try:
        return json.loads(line)  # type: ignore[no-any-return]
    except (ValueError, RecursionError):
        return None


def _object(pairs: Sequence[tuple[str, Any]], repeated: list[str]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs) and all(isinstance(value, list) for value in found.values()):
        counts = Counter(key for key, _ in pairs)
        repeated += [key for key, count in counts.items() if count > 1]
    return found
