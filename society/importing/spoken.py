"""One response as a transcript file tells it, and what is wrong with a file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from providers.types import FinishReason
from society.config.load import ConfigError
from store.records import StageKey, TurnKind

_SHOWN = 20
_PLACES = 8
_VALUE = re.compile(r"""\d+|'[^']*'|"[^"]*\"""")


class TranscriptError(ConfigError):
    """A transcript file cannot be imported; nothing was written. One entry per cause."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        causes = grouped(problems)
        lines = [f"{source} cannot be imported, {len(problems)} problem(s):", *causes[:_SHOWN]]
        if len(causes) > _SHOWN:
            lines.append(f"… and {len(causes) - _SHOWN} more causes")
        super().__init__("\n  ".join(lines))
        self.problems = tuple(problems)


def grouped(problems: Sequence[str]) -> list[str]:
    """Every cause once, with the places that have it too; each problem is "PLACE: what is wrong".

    Causes are one where they differ in numbers and quoted values only.
    """
    causes: dict[str, list[str]] = {}
    for problem in problems:
        causes.setdefault(_VALUE.sub("", problem), []).append(problem)
    return [_joined(alike) for alike in causes.values()]


def _joined(alike: Sequence[str]) -> str:
    first, *rest = alike
    if not rest:
        return first
    places = [problem.partition(": ")[0] for problem in rest]
    shown = ", ".join(places[:_PLACES]) + (", …" if len(places) > _PLACES else "")
    return f"{first}\n    and {len(rest)} more like it: {shown}"


@dataclass(frozen=True, slots=True)
class Spoken:
    """One response. `where` is its place in the file, for messages.

    `messages` is the conversation it answered, as `store.records.messages_json` writes it; None
    where the file has none. `answer` is None where it is to be read from the response. `meta` is
    the question's, as a JSON object.
    """

    where: str
    stage: StageKey
    question: str
    agent: int
    round: int
    response: str
    kind: TurnKind = "answer"
    question_id: str | None = None
    gold: str | None = None
    model: str | None = None
    messages: str | None = None
    answer: str | None = None
    finish_reason: FinishReason = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency_ms: float = 0.0
    error: str | None = None
    meta: str | None = None

    @property
    def place(self) -> tuple[int, int, TurnKind]:
        """Where it stands in its debate."""
        return self.agent, self.round, self.kind


def plain(value: str | int | float | None) -> str | None:
    """A gold answer or an answer as text; None where there is none."""
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    return str(value).strip() or None
