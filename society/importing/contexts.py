"""Transcripts as one JSON object: {question: [contexts of the agents, gold]}.

The shape that Du et al. 2023 (https://github.com/composable-models/llm_multiagent_debate) and the
released code of arXiv 2501.05707 write at the end of a debate. A context is one agent's whole
conversation; its assistant messages are the agent's answers of rounds 1, 2, … A summary of the
others is part of the user message that shows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from society.importing.spoken import Spoken, plain
from store.records import StageKey, messages_json, storable


class ContextMessage(BaseModel):
    """One message; a null content is an answer that never came."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)
    role: Literal["system", "user", "assistant"]
    content: str | None


_Context = Annotated[list[ContextMessage], Field(strict=True)]
_CONTEXTS = TypeAdapter(Annotated[list[_Context], Field(min_length=1, strict=True)])
_GOLD = TypeAdapter(str | int | float | None, config=ConfigDict(strict=True))


def looks_like(document: object) -> bool:
    """Whether a JSON document is of this shape rather than one line of turns."""
    return (
        isinstance(document, Mapping)
        and bool(document)
        and all(isinstance(entry, list) for entry in document.values())
    )


def read(document: Mapping[str, Any], stage: StageKey, problems: list[str]) -> list[Spoken]:
    """All answers; what is wrong with a question goes to `problems`, with its number."""
    found: list[Spoken] = []
    for number, (question, entry) in enumerate(document.items(), start=1):
        where = f"question {number} ({question.strip()[:40]!r})"
        if not question.strip():
            problems.append(f"{where}: its text is empty; the key of an entry is the question")
            continue
        try:
            contexts = _CONTEXTS.validate_python(entry[0] if entry else None)
            gold = _GOLD.validate_python(entry[1] if len(entry) > 1 else None)
        except ValidationError as error:
            problems.append(f"{where}: {_explained(error)}")
            continue
        for agent, context in enumerate(contexts, start=1):
            place = f"{where}, agent {agent}"
            if (wrong := _wrong(context)) is not None:
                problems.append(f"{place}: {wrong}")
            else:
                found += _answers(place, stage, question, plain(gold), agent, context)
    return found


def _answers(
    where: str,
    stage: StageKey,
    question: str,
    gold: str | None,
    agent: int,
    context: list[ContextMessage],
) -> Iterator[Spoken]:
    conversation: list[dict[str, str]] = []
    number = 0
    for message in context:
        content = storable(message.content or "")
        if message.role == "assistant":
            number += 1
            failed = message.content is None
            yield Spoken(
                where=f"{where}, round {number}",
                stage=stage,
                question=storable(question),
                agent=agent,
                round=number,
                response=content,
                gold=None if gold is None else storable(gold),
                messages=messages_json(conversation),
                finish_reason="error" if failed else "stop",
                error="the transcript has no response" if failed else None,
            )
        conversation.append({"role": message.role, "content": content})


def _wrong(context: list[ContextMessage]) -> str | None:
    before = None
    for number, message in enumerate(context, start=1):
        if message.role == "assistant" and before != "user":
            return (
                f"message {number} is an assistant's and answers no user message; every answer of "
                "a round follows one user message (turns of other shapes: one per line, see "
                "docs/import.md)"
            )
        if message.role != "assistant" and message.content is None:
            return f"message {number} has no content; give it a text"
        before = message.role
    return None


def _explained(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    path = "".join(f"[{part}]" for part in problem["loc"] if isinstance(part, int))
    return (
        f"expected [[messages of agent 1, messages of agent 2, …], gold], but "
        f"{'contexts' + path if path else 'an entry'} {problem['input']!r:.60} is not right: "
        f"{problem['msg']}"
    )
