"""One answer in the making: its tokens, its end, and where it lies in a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

import numpy as np

from providers.local.adapters import AdapterSpan
from providers.local.drawing import draw_noise
from providers.types import FinishReason, Sampling


@dataclass(eq=False, slots=True)
class DecodingRow:
    """A conversation that is being answered: its prompt, the tokens drawn so far, and its end.

    `sampling.max_tokens` is already cut to what fits into the context. `answer` includes the end
    token once it is drawn. An `abandoned` row is dropped at the next step. `decode` is needed by
    rows with stop strings.
    """

    prompt: tuple[int, ...]
    adapter: str | None
    sampling: Sampling
    key: str
    decode: Callable[[Sequence[int]], str] | None = None
    answer: list[int] = field(default_factory=list)
    finish: FinishReason | None = None
    abandoned: bool = False
    noise: np.ndarray = field(init=False)
    _tokens: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        count = self.sampling.max_tokens if self.sampling.temperature > 0 else 0
        self.noise = draw_noise(self.sampling.seed, self.key, count)
        penalized = self.sampling.repetition_penalty != 1.0
        self._tokens = np.zeros(self.longest if penalized else 0, np.int64)
        self._tokens[: len(self.prompt)] = self.prompt if penalized else ()

    @property
    def longest(self) -> int:
        """How many cache slots the row may come to need."""
        return len(self.prompt) + self.sampling.max_tokens

    @property
    def length(self) -> int:
        """How many tokens are known so far."""
        return len(self.prompt) + len(self.answer)

    @property
    def last(self) -> int:
        """The newest token, which the model reads next."""
        return self.answer[-1] if self.answer else self.prompt[-1]

    @property
    def point(self) -> float:
        """The uniform number that decides the next token; 0 for a greedy row, which ignores it."""
        return float(self.noise[len(self.answer)]) if len(self.noise) else 0.0

    @property
    def known(self) -> np.ndarray:
        """The tokens so far, int64, (length,), if a repetition penalty needs them; else none."""
        return self._tokens[: self.length]

    def extend(self, token: int, ends: frozenset[int]) -> None:
        """Add a token; `ends` are the tokens that end an answer."""
        if len(self._tokens):
            self._tokens[self.length] = token
        self.answer.append(token)
        if token in ends or self._has_stop():
            self.finish = "stop"
        elif len(self.answer) >= self.sampling.max_tokens:
            self.finish = "length"

    def _has_stop(self) -> bool:
        """Whether the answer's text has come to contain a stop string."""
        if not self.sampling.stop or self.decode is None:
            return False
        # A token has a byte at least, and a character four at most. What is in the text's tail must
        # be in the whole, since tokens may be written differently where a text begins.
        tail = 4 * max(map(len, self.sampling.stop)) + 4
        for tokens in (self.answer[-tail:], self.answer):
            text = self.decode(tokens)
            if not any(stop in text for stop in self.sampling.stop):
                return False
        return True

    def restart(self) -> None:
        """Forget the drawn tokens; the same ones will be drawn again."""
        self.answer.clear()
        self.finish = None


class Decoder(Protocol):
    """Answers rows together, one token of each per step.

    ```python
    decoder.admit(decoder.select_fitting(waiting))
    while decoder.active:
        ended = decoder.step()
    ```
    """

    @property
    def active(self) -> int:
        """How many rows are being answered."""

    def select_fitting(self, rows: Sequence[DecodingRow]) -> list[DecodingRow]:
        """The waiting rows that can be admitted now. Without room for the first there is none."""

    def admit(self, rows: Sequence[DecodingRow]) -> None:
        """Read the prompts of `rows`; the next step draws their first tokens."""

    def step(self) -> list[DecodingRow]:
        """Draw one token for every active row; return the rows that have ended, which leave."""

    def shrink(self) -> None:
        """After memory ran out: forget all rows, and from now on hold half as many at once."""

    def release(self) -> None:
        """Free the memory of the cache; no row may be active."""


def answer_rows(decoder: Decoder, rows: Sequence[DecodingRow]) -> None:
    """Answer all `rows` to their ends, as many at a time as `decoder` takes."""
    waiting = list(rows)
    while waiting or decoder.active:
        joining = decoder.select_fitting(waiting) if waiting else []
        if joining:
            decoder.admit(joining)
            waiting = [row for row in waiting if row not in joining]
        decoder.step()
    decoder.release()


def find_spans(adapters: Sequence[str | None]) -> list[AdapterSpan]:
    """The spans of neighboring rows with the same adapter; rows of the bare base have none.

    ```python
    find_spans(["a", "a", None, "b"])  # [AdapterSpan("a", 0, 2), AdapterSpan("b", 3, 4)]
    ```
    """
    found, start = [], 0
    for name, group in groupby(adapters):
        stop = start + len(list(group))
        if name is not None:
            found.append(AdapterSpan(name, start, stop))
        start = stop
    return found


def arrange_rows(rows: Iterable[DecodingRow], lines: dict[DecodingRow, int]) -> list[DecodingRow]:
    """The order in which rows of one adapter are neighbors and as few rows as possible move.

    `lines` maps the rows that already have a line to it.
    """
    groups: dict[str, list[DecodingRow]] = {}
    for row in rows:
        groups.setdefault(row.adapter or "", []).append(row)
    # Each adapter gets its stretch of lines. A row that already lies in the stretch stays there,
    # because moving it copies its whole cache line; the others fill the gaps.
    order: list[DecodingRow] = []
    for _, group in sorted(groups.items()):
        start, stop = len(order), len(order) + len(group)
        places: list[DecodingRow | None] = [None] * len(group)
        moving = []
        for row in group:
            line = lines.get(row, -1)
            if start <= line < stop:
                places[line - start] = row
            else:
                moving.append(row)
        order.extend(row or moving.pop() for row in places)
    return order
