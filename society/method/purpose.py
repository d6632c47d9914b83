"""What a paid call is made for: the stage, agent and turn that its cost is booked to.

A provider sees only requests. So the caller says in a context variable what the request is for, and
the layer that counts costs (`society.costs`) reads it there, whatever lies in between.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from store.records import Turn
from store.spending import ChargedStage


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a call is made for. `turn_id` is that of the turn which the answer becomes."""

    stage: ChargedStage
    iteration: int | None = None
    arm: str | None = None
    split: str | None = None
    decoding: str | None = None
    question_id: str | None = None
    agent: int | None = None
    role: str | None = None
    turn_id: int | None = None


_IN_PASSING = Purpose("ask")
_purpose: ContextVar[Purpose] = ContextVar("purpose", default=_IN_PASSING)


def current_purpose() -> Purpose:
    """The purpose of the calls that the current task makes; by default `society ask`."""
    return _purpose.get()


@contextmanager
def spend_for(purpose: Purpose) -> Iterator[None]:
    """Every call made inside is booked to `purpose`."""
    # A context variable and no attribute: thousands of calls of one event loop run at a time, and
    # each task has its own value.
    token = _purpose.set(purpose)
    try:
        yield
    finally:
        _purpose.reset(token)


def describe_turn(turn: Turn) -> Purpose:
    """The purpose of a call whose answer is to be `turn`."""
    first = "generator" if turn.round == 1 else "critic"
    return Purpose(
        stage="evaluate" if turn.split == "eval" else "debate",
        iteration=turn.iteration,
        arm=turn.arm,
        split=turn.split,
        decoding=turn.decoding,
        question_id=turn.question_id,
        agent=turn.agent,
        role="summarizer" if turn.kind == "summary" else first,
        turn_id=turn.turn_id,
    )
