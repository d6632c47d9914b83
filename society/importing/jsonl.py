"""Transcripts as JSON Lines: one response per line (format in docs/import.md)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import ErrorDetails

from providers.types import FinishReason, Role
from society.importing.debates import ImportedTurn, to_text
from store.content import make_storable, messages_json
from store.records import Decoding, Split, StageKey, TurnKind

# Columns are 32-bit integers, and numbers of iterations become loops.
_LARGEST = 2**31 - 1
_MOST_ITERATIONS = 10_000
Number = Annotated[int, Field(ge=1, le=_LARGEST)]
Count = Annotated[int, Field(ge=0, le=_LARGEST)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class SentMessage(BaseModel):
    """One message of the sent conversation; other fields than these two are dropped."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)
    role: Role
    content: str


class TurnLine(BaseModel):
    """One line. Only the first four fields are required."""

    # Strict and closed: a misspelt field would be dropped without a word.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    question: Annotated[str, Field(pattern=r"\S")]
    agent: Number
    round: Number
    response: str
    question_id: Words | None = None
    gold: str | int | Finite | None = None
    split: Split | None = None
    iteration: Annotated[int, Field(ge=0, le=_MOST_ITERATIONS)] | None = None
    arm: Words = "multiagent"
    decoding: Decoding = "sampled"
    kind: TurnKind = "answer"
    model: Words | None = None
    messages: Annotated[tuple[SentMessage, ...], Field(min_length=1, strict=False)] | None = None
    answer: str | int | Finite | None = None
    finish_reason: FinishReason | None = None
    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    latency_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    error: str | None = None
    meta: dict[str, Any] | None = None


_LINE = TypeAdapter(TurnLine)


def read_jsonl(
    lines: Iterable[str], split: Split, iteration: int | None, problems: list[str]
) -> list[ImportedTurn]:
    """The response of every line; faults of a line go to `problems`, with its number.

    `split` and `iteration` apply to lines that name none. The default iteration is 1 for training
    debates and 0 for evaluation.
    """
    found: list[ImportedTurn] = []
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        where = f"line {number}"
        try:
            line = _LINE.validate_python(json.loads(text))
            stage = _stage(line, split, iteration)
            spoken = _to_turn(line, where, stage)
        except ValidationError as error:
            problems += [f"{where}: {_explain_problem(e)}" for e in error.errors(include_url=False)]
        # Deeply nested JSON exhausts the parser's stack and raises RecursionError.
        except (ValueError, RecursionError) as error:
            reason = "too deeply nested" if isinstance(error, RecursionError) else str(error)
            problems.append(f"{where}: not one JSON object ({reason}); correct or remove the line")
        else:
            if (wrong := _find_fault(line, stage)) is not None:
                problems.append(f"{where}: {wrong}")
            found.append(spoken)
    return found


def _stage(line: TurnLine, split: Split, iteration: int | None) -> StageKey:
    part = line.split or split
    first = 1 if part == "train" else 0
    given = iteration if line.iteration is None else line.iteration
    return StageKey(first if given is None else given, part, make_storable(line.arm), line.decoding)


def _find_fault(line: TurnLine, stage: StageKey) -> str | None:
    if stage.split == "train" and stage.iteration == 0:
        return (
            "a training debate needs an iteration of 1 or more, got 0; set it, or split = eval: "
            "iteration 0 is the evaluation of the untuned society"
        )
    if line.kind == "summary" and line.round == 1:
        return "a summary begins round 2 or later, got round 1; give the round that it begins"
    return None


def _to_turn(line: TurnLine, where: str, stage: StageKey) -> ImportedTurn:
    messages = None
    if line.messages is not None:
        sent = [{"role": m.role, "content": make_storable(m.content)} for m in line.messages]
        messages = messages_json(sent)
    # Without a finish_reason, an error tells that the answer never came.
    reason: Literal["stop", "error"] = "stop" if line.error is None else "error"
    return ImportedTurn(
        where=where,
        stage=stage,
        question=make_storable(line.question),
        agent=line.agent,
        round=line.round,
        response=make_storable(line.response),
        kind=line.kind,
        question_id=_storable(line.question_id),
        gold=_storable(to_text(line.gold)),
        model=_storable(line.model),
        messages=messages,
        answer=_storable(to_text(line.answer)),
        finish_reason=line.finish_reason or reason,
        prompt_tokens=line.prompt_tokens,
        completion_tokens=line.completion_tokens,
        latency_ms=line.latency_ms,
        error=_storable(line.error),
        meta=None if line.meta is None else _meta(line.meta),
    )


def _meta(meta: dict[str, Any]) -> str:
    return make_storable(json.dumps(meta, ensure_ascii=False, allow_nan=False))


def _storable(text: str | None) -> str | None:
    return None if text is None else make_storable(text)


def _explain_problem(problem: ErrorDetails) -> str:
    key = ".".join(str(part) for part in problem["loc"]) or "the line"
    if problem["type"] == "missing":
        return f"{key} is missing; add it"
    if problem["type"] == "extra_forbidden":
        known = ", ".join(TurnLine.model_fields)
        return f"{key} is not a field of a turn; remove it or move it into meta (fields: {known})"
    # Other tools count agents and rounds from 0.
    if problem["type"] == "greater_than_equal" and key in ("agent", "round"):
        return f"{key}: agents and rounds count from 1, got {problem['input']!r}; add 1 to all"
    if problem["type"] in ("string_pattern_mismatch", "string_too_short"):
        return f"{key} is empty; fill it in"
    if problem["type"] in ("model_type", "model_attributes_type"):
        return f"not a JSON object but {problem['input']!r:.60}; write one object per line"
    return f"{key}: {problem['msg']}, got {problem['input']!r:.60}"
