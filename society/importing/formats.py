"""Transcript files: which of the two formats a file has, and the reader of the second one.

The first is one response per line (`jsonl`). The second is one JSON object {question: [contexts of
the agents, gold]}, which Du et al. 2023
(https://github.com/composable-models/llm_multiagent_debate) and the released code of arXiv
2501.05707 write at the end of a debate. A context is one agent's whole conversation; its assistant
messages are the agent's answers of rounds 1, 2, … A summary of the other agents is part of the
user message that shows it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from evals.tasks.sources.formats import read_text
from society.importing import jsonl
from society.importing.debates import ImportedTurn, TranscriptError, to_text
from store.content import make_storable, messages_json
from store.records import Split, StageKey

_FORMATS = (
    'one JSON object per line with "question", "agent", "round" and "response", or one object '
    "{question: [contexts of the agents, gold]}; see docs/import.md"
)


def read_transcripts(path: Path, split: Split, iteration: int | None) -> list[ImportedTurn]:
    """All responses of the file. Raises `TranscriptError` with everything that is wrong.

    `split` and `iteration` apply to responses that name none.
    """
    text = _read_text(path)
    problems: list[str] = []
    document = _parse_document(text, str(path), problems)
    if document is None:
        found = jsonl.read_jsonl(text.split("\n"), split, iteration, problems)
    else:
        first = 1 if split == "train" else 0
        stage = StageKey(first if iteration is None else iteration, split, "multiagent", "sampled")
        found = read_contexts(document, stage, problems)
    if problems:
        raise TranscriptError(str(path), problems)
    return found


def _read_text(path: Path) -> str:
    try:
        text = read_text(path, "the file")
    except ValueError as error:
        raise TranscriptError(str(path), [str(error)]) from error
    if not text.strip():
        raise TranscriptError(str(path), [f"the file is empty; it needs {_FORMATS}"])
    return text


def _parse_document(text: str, source: str, problems: list[str]) -> dict[str, Any] | None:
    """The object of the second format, or None if the file has one turn per line."""
    opening = next(line for line in text.split("\n") if line.strip())
    first = _parse_json(opening)
    if _is_turn(first) or (not is_context_document(first) and _has_turns(text)):
        return None
    # json.loads keeps the last of two equal keys without a word; the hook collects them.
    repeated: list[str] = []
    try:
        whole = json.loads(text, object_pairs_hook=lambda pairs: _build_object(pairs, repeated))
    except (ValueError, RecursionError) as error:
        reason = "too deeply nested" if isinstance(error, RecursionError) else error
        raise TranscriptError(
            source, [f"neither of the two formats ({reason}); it needs {_FORMATS}"]
        ) from error
    if not is_context_document(whole):
        raise TranscriptError(source, [f"neither of the two formats; it needs {_FORMATS}"])
    problems += [f"the question {key[:60]!r} appears twice; keep one" for key in repeated]
    return dict(whole)


def _is_turn(parsed: object) -> bool:
    known = jsonl.TurnLine.model_fields.keys()
    return (
        isinstance(parsed, dict)
        and not is_context_document(parsed)
        and not known.isdisjoint(parsed)
    )


def _has_turns(text: str) -> bool:
    # The first line may be broken, so look at some more before calling it the other format.
    return any(_is_turn(_parse_json(line)) for line in text.split("\n", 100)[:100])


def _parse_json(line: str) -> object | None:
    try:
        return json.loads(line)  # type: ignore[no-any-return]
    except (ValueError, RecursionError):
        return None


def _build_object(pairs: Sequence[tuple[str, Any]], repeated: list[str]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs) and all(isinstance(value, list) for value in found.values()):
        counts = Counter(key for key, _ in pairs)
        repeated += [key for key, count in counts.items() if count > 1]
    return found


class ContextMessage(BaseModel):
    """One message; a null content is an answer that is missing."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)
    role: Literal["system", "user", "assistant"]
    content: str | None


_Context = Annotated[list[ContextMessage], Field(strict=True)]
_CONTEXTS = TypeAdapter(Annotated[list[_Context], Field(min_length=1, strict=True)])
_GOLD_ANSWER = TypeAdapter(str | int | float | None, config=ConfigDict(strict=True))


def is_context_document(document: object) -> bool:
    """Whether a JSON document has the second format rather than one turn per line."""
    return (
        isinstance(document, Mapping)
        and bool(document)
        and all(isinstance(entry, list) for entry in document.values())
    )


def read_contexts(
    document: Mapping[str, Any], stage: StageKey, problems: list[str]
) -> list[ImportedTurn]:
    """All answers of a document; faults of a question go to `problems`, with its number."""
    found: list[ImportedTurn] = []
    for number, (question, entry) in enumerate(document.items(), start=1):
        where = f"question {number} ({question.strip()[:40]!r})"
        if not question.strip():
            problems.append(f"{where}: its text is empty; the key of an entry is the question")
            continue
        try:
            contexts = _CONTEXTS.validate_python(entry[0] if entry else None)
            gold = _GOLD_ANSWER.validate_python(entry[1] if len(entry) > 1 else None)
        except ValidationError as error:
            problems.append(f"{where}: {_explain_error(error)}")
            continue
        for agent, context in enumerate(contexts, start=1):
            place = f"{where}, agent {agent}"
            if (wrong := _find_fault(context)) is not None:
                problems.append(f"{place}: {wrong}")
            else:
                found += _answers(place, stage, question, to_text(gold), agent, context)
    return found


def _answers(
    where: str,
    stage: StageKey,
    question: str,
    gold: str | None,
    agent: int,
    context: list[ContextMessage],
) -> Iterator[ImportedTurn]:
    conversation: list[dict[str, str]] = []
    number = 0
    for message in context:
        # Lone surrogates and NUL cannot be stored, so they are replaced on the way in.
        content = make_storable(message.content or "")
        if message.role == "assistant":
            # Rounds are counted by answers: an agent's second answer is its round 2.
            number += 1
            failed = message.content is None
            yield ImportedTurn(
                where=f"{where}, round {number}",
                stage=stage,
                question=make_storable(question),
                agent=agent,
                round=number,
                response=content,
                gold=None if gold is None else make_storable(gold),
                messages=messages_json(conversation),
                finish_reason="error" if failed else "stop",
                error="the transcript has no response" if failed else None,
            )
        conversation.append({"role": message.role, "content": content})


def _find_fault(context: list[ContextMessage]) -> str | None:
    before = None
    for number, message in enumerate(context, start=1):
        if message.role == "assistant" and before != "user":
            return (
                f"message {number} is from the assistant and follows no user message; each answer "
                "of a round must follow one user message (turns of other shapes: one per line, see "
                "docs/import.md)"
            )
        if message.role != "assistant" and message.content is None:
            return f"message {number} has no content; add its text"
        before = message.role
    return None


def _explain_error(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    path = "".join(f"[{part}]" for part in problem["loc"] if isinstance(part, int))
    return (
        f"expected [[messages of agent 1, messages of agent 2, …], gold], but "
        f"{'contexts' + path if path else 'an entry'} {problem['input']!r:.60} is wrong: "
        f"{problem['msg']}"
    )
