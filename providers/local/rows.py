"""One answer in the making, and how the answers of a batch are laid out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

import numpy as np

from providers.local.adapters import Span
from providers.local.sampling import noise
from providers.types import FinishReason, Sampling


@dataclass(eq=False, slots=True)
class Row:
    """A conversation that is being answered: its prompt, what was drawn so far, and how it ended.

    `sampling.max_tokens` is already cut to what fits into the context. `answer` includes the end
    token where one was drawn. `abandoned` rows are dropped at the next step.
    """

    prompt: tuple[int, ...]
    adapter: str | None
    sampling: Sampling
    key: str
    answer: list[int] = field(default_factory=list)
    finish: FinishReason | None = None
    abandoned: bool = False
    noise: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        count = self.sampling.max_tokens if self.sampling.temperature > 0 else 0
        self.noise = noise(self.sampling.seed, self.key, count)

    @property
    def longest(self) -> int:
        """Slots the row may come to need."""
        return len(self.prompt) + self.sampling.max_tokens

    @property
    def length(self) -> int:
        """Tokens known so far."""
        return len(self.prompt) + len(self.answer)

    @property
    def last(self) -> int:
        """The newest token, the next one to be fed to the model."""
        return self.answer[-1] if self.answer else self.prompt[-1]

    @property
    def point(self) -> float:
        """The uniform number that decides the next token; any value where the row is greedy."""
        return float(self.noise[len(self.answer)]) if len(self.noise) else 0.0

    def extend(self, token: int, ends: frozenset[int]) -> None:
        self.answer.append(token)
        if token in ends:
            self.finish = "stop"
        elif len(self.answer) >= self.sampling.max_tokens:
            self.finish = "length"

    def restart(self) -> None:
        """Forget what was drawn; the same tokens will be drawn again."""
        self.answer.clear()
        self.finish = None


class Decoder(Protocol):
    """Answers rows together, one token of each per step."""

    @property
    def active(self) -> int:
        """Rows that are being answered."""

    def fitting(self, rows: Sequence[Row]) -> list[Row]:
        """Which of these waiting rows can be admitted now, the first of them or none at all."""

    def admit(self, rows: Sequence[Row]) -> None:
        """Read the prompts of `rows` and answer them from the next step on."""

    def step(self) -> list[Row]:
        """Draw one token for every active row; returns the rows that have ended, which leave."""

    def shrink(self) -> None:
        """Forget all rows, after memory ran out, and from now on hold half as many at once."""

    def release(self) -> None:
        """Give the memory of the cache back; nothing may be active."""


def spans(adapters: Sequence[str | None]) -> list[Span]:
    """Neighbouring rows with the same adapter as spans, the bare base's left out."""
    found, start = [], 0
    for name, group in groupby(adapters):
        stop = start + len(list(group))
        if name is not None:
            found.append(Span(name, start, stop))
        start = stop
    return found


def arrange(rows: Iterable[Row], lines: dict[Row, int]) -> list[Row]:
    """The order in which rows of one adapter are neighbours and as few rows as possible move.

    `lines` tells where the rows that have a line already are.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.adapter or "", []).append(row)
    order: list[Row] = []
    for _, group in sorted(groups.items()):
        start, stop = len(order), len(order) + len(group)
        places: list[Row | None] = [None] * len(group)
        moving = []
        for row in group:
            line = lines.get(row, -1)
            if start <= line < stop:
                places[line - start] = row
            else:
                moving.append(row)
        order.extend(row or moving.pop() for row in places)
    return order
