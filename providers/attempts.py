"""Counting attempts: what a provider that asks a server more than once tells whoever pays.

A call may take several attempts, and a server bills those too whose answers never arrived. Whoever
pays puts a counter into `current` around a call; a provider with a retry loop tells it of each
attempt. One that tells nothing is taken to have made one attempt.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that were billed. `estimated`: the server has not told them, they are a bound."""

    prompt_tokens: int
    completion_tokens: int
    estimated: bool = False


FREE = Usage(0, 0)


class Attempts(Protocol):
    """Counts the attempts of one call. Each is reserved, departs, and is answered or failed."""

    @property
    def is_reserved(self) -> bool:
        """Whether the next attempt need not wait for money."""

    def enlist(self) -> None:
        """Every attempt of this call will be told."""

    async def reserve(self) -> None:
        """Returns once the next attempt may be paid; raises `BudgetReached` where it never may."""

    async def depart(self) -> None:
        """The attempt is about to be sent; returns once that is on record."""

    def answered(self, usage: Usage) -> None:
        """The attempt brought an answer."""

    def failed(self, usage: Usage | None = None) -> None:
        """The attempt brought none. `usage` is what it was billed, None: nobody knows."""


class Uncounted:
    """Nobody counts."""

    is_reserved = True

    def enlist(self) -> None:
        return

    async def reserve(self) -> None:
        return

    async def depart(self) -> None:
        return

    def answered(self, usage: Usage) -> None:
        return

    def failed(self, usage: Usage | None = None) -> None:
        return


UNCOUNTED: Attempts = Uncounted()

current: ContextVar[Attempts] = ContextVar("attempts", default=UNCOUNTED)
"""Who counts the attempts of the call that is being made."""
