"""One answer in the making: its tokens, how they are drawn, and where it lies in a batch.

An answer depends on its request alone. The noise of request (seed, key) is one fixed stream of
uniform numbers, one per answer token: Philox-4x64 keyed with BLAKE2b of both, so that no request
shares or shifts another's stream. A token is the inverse of the distribution function, in token
order and double precision, at that number. If rounding moved the probabilities by a total of e, the
token would change with a probability of about e.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import groupby
from typing import Protocol

import numpy as np
import torch

from providers.local.adapters import AdapterSpan
from providers.types import FinishReason, Sampling


def draw_noise(seed: int, key: str, count: int) -> np.ndarray:
    """The first `count` numbers of a request's stream, uniform in [0, 1), float64, (count,).

    ```python
    draw_noise(seed=0, key="q1/1/1", count=2)  # the same two numbers on every machine
    ```
    """
    digest = blake2b(f"{seed}:{key}".encode(), digest_size=16).digest()
    raw = np.random.Philox(key=int.from_bytes(digest, "little")).random_raw(count)
    # The upper 53 bits: as many as a double's mantissa has.
    return (raw >> np.uint64(11)) * 2.0**-53


@dataclass(frozen=True, slots=True)
class BatchSampling:
    """The sampling settings of a batch's rows: float32 tensors on the model's device.

    `sampled`: at least one row is not greedy. `truncated`: at least one row uses top-p.
    """

    temperature_B: torch.Tensor
    top_p_B: torch.Tensor
    sampled: bool
    truncated: bool

    @classmethod
    def of(cls, rows: Sequence[Sampling], device: torch.device) -> BatchSampling:
        """The settings of these rows, in order."""
        return cls(
            torch.tensor([row.temperature for row in rows], device=device),
            torch.tensor([row.top_p for row in rows], device=device),
            any(row.temperature > 0 for row in rows),
            any(row.temperature > 0 and row.top_p < 1 for row in rows),
        )


def choose_tokens(
    logits_B_V: torch.Tensor, sampling: BatchSampling, noise_B: torch.Tensor
) -> torch.Tensor:
    """One token per row, int64, shape (B,). Of equal greatest logits the lowest token id wins.

    `noise_B` is float64 in [0, 1). Rows of temperature 0 ignore it.
    """
    # MPS has no double precision.
    if logits_B_V.device.type == "mps":
        logits_B_V = logits_B_V.cpu()
    logits_B_V = logits_B_V.float()
    greedy_B = logits_B_V.argmax(-1)
    if not sampling.sampled:
        return greedy_B
    temperature_B = sampling.temperature_B.to(logits_B_V.device)
    probs_B_V = torch.softmax(logits_B_V / temperature_B.clamp_min(1e-6)[:, None], -1)
    if sampling.truncated:
        probs_B_V = _keep_nucleus(probs_B_V, sampling.top_p_B.to(logits_B_V.device))
    mass_B_V = probs_B_V.cumsum(-1, dtype=torch.float64)
    point_B_1 = noise_B.to(mass_B_V.device)[:, None] * mass_B_V[:, -1:]
    drawn_B = torch.searchsorted(mass_B_V, point_B_1, right=True)[:, 0]
    # Rounding can put the point at the very end of the mass.
    drawn_B = drawn_B.clamp_max(logits_B_V.shape[-1] - 1)
    return torch.where(temperature_B > 0, drawn_B, greedy_B)


def _keep_nucleus(probs_B_V: torch.Tensor, top_p_B: torch.Tensor) -> torch.Tensor:
    """The smallest set of likeliest tokens whose mass reaches top_p, zeros elsewhere."""
    sorted_B_V, order_B_V = probs_B_V.sort(stable=True, dim=-1, descending=True)
    before_B_V = sorted_B_V.cumsum(-1, dtype=torch.float64) - sorted_B_V
    kept_B_V = torch.where(before_B_V < top_p_B[:, None], sorted_B_V, 0.0)
    return torch.zeros_like(probs_B_V).scatter_(-1, order_B_V, kept_B_V)


@dataclass(eq=False, slots=True)
class DecodingRow:
    """A conversation that is being answered: its prompt, the tokens drawn so far, and its end.

    `sampling.max_tokens` is already cut to what fits into the context. `answer` includes the end
    token once it is drawn. An `abandoned` row is dropped at the next step.
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
        self.noise = draw_noise(self.sampling.seed, self.key, count)

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

    def extend(self, token: int, ends: frozenset[int]) -> None:
        """Add a token; `ends` are the tokens that end an answer."""
        self.answer.append(token)
        if token in ends:
            self.finish = "stop"
        elif len(self.answer) >= self.sampling.max_tokens:
            self.finish = "length"

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
