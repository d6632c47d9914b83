"""One response as a transcript file tells it, and what is wrong with a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from providers.base import FinishReason
from society.config import ConfigError
from society.outcome import Scope
from store.records import TurnKind

_SHOWN = 20


class TranscriptError(ConfigError):
    """A transcript file cannot be imported; nothing was written. One line per problem."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        lines = [f"{source} cannot be imported, {len(problems)} problem(s):", *problems[:_SHOWN]]
        if len(problems) > _SHOWN:
            lines.append(f"… and {len(problems) - _SHOWN} more")
        super().__init__("\n  ".join(lines))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Spoken:
    """One response. `where` is its place in the file, for messages.

    `messages` is the conversation it answered, as `store.records.messages_json` writes it; None
    where the file has none. `answer` is None where it is to be read from the response. `meta` is
    the question's, as a JSON object.
    """

    where: str
    scope: Scope
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
