"""Drawing tokens so that a request's answer depends on the request alone.

The noise of request (seed, key) is one fixed stream of uniform numbers, one per answer token:
Philox-4x64 keyed with BLAKE2b of both, so no request shares or shifts another's stream. A token is
the inverse of the distribution function, in token order and double precision, at that number: if
rounding moved the probabilities by a total of e, the token would change with probability of about
e.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch

from providers.types import Sampling


def noise(seed: int, key: str, count: int) -> np.ndarray:
    """The first `count` numbers of a request's stream, uniform in [0, 1), float64, (count,)."""
    digest = blake2b(f"{seed}:{key}".encode(), digest_size=16).digest()
    raw = np.random.Philox(key=int.from_bytes(digest, "little")).random_raw(count)
    return (raw >> np.uint64(11)) * 2.0**-53


@dataclass(frozen=True, slots=True)
class Choice:
    """How the rows of a batch are drawn: temperature_B and top_p_B, float32, on the model's device.

    `sampled` and `truncated` tell whether any row is not greedy, and whether any uses top-p.
    """

    temperature_B: torch.Tensor
    top_p_B: torch.Tensor
    sampled: bool
    truncated: bool

    @classmethod
    def of(cls, rows: Sequence[Sampling], device: torch.device) -> Choice:
        return cls(
            torch.tensor([row.temperature for row in rows], device=device),
            torch.tensor([row.top_p for row in rows], device=device),
            any(row.temperature > 0 for row in rows),
            any(row.temperature > 0 and row.top_p < 1 for row in rows),
        )


def choose(logits_B_V: torch.Tensor, choice: Choice, noise_B: torch.Tensor) -> torch.Tensor:
    """One token per row, int64, shape (B,). Equal greatest logits: the lowest token id wins.

    `noise_B` is float64 in [0, 1). Rows of temperature 0 ignore it.
    """
    if logits_B_V.device.type == "mps":  # it has no double precision
        logits_B_V = logits_B_V.cpu()
    logits_B_V = logits_B_V.float()
    greedy_B = logits_B_V.argmax(-1)
    if not choice.sampled:
        return greedy_B
    temperature_B = choice.temperature_B.to(logits_B_V.device)
    probs_B_V = torch.softmax(logits_B_V / temperature_B.clamp_min(1e-6)[:, None], -1)
    if choice.truncated:
        probs_B_V = _nucleus(probs_B_V, choice.top_p_B.to(logits_B_V.device))
    mass_B_V = probs_B_V.cumsum(-1, dtype=torch.float64)
    point_B_1 = noise_B.to(mass_B_V.device)[:, None] * mass_B_V[:, -1:]
    drawn_B = torch.searchsorted(mass_B_V, point_B_1, right=True)[:, 0]
    drawn_B = drawn_B.clamp_max(logits_B_V.shape[-1] - 1)
    return torch.where(temperature_B > 0, drawn_B, greedy_B)


def _nucleus(probs_B_V: torch.Tensor, top_p_B: torch.Tensor) -> torch.Tensor:
    """The smallest set of likeliest tokens whose mass reaches top_p, zeros elsewhere."""
    sorted_B_V, order_B_V = probs_B_V.sort(stable=True, dim=-1, descending=True)
    before_B_V = sorted_B_V.cumsum(-1, dtype=torch.float64) - sorted_B_V
    kept_B_V = torch.where(before_B_V < top_p_B[:, None], sorted_B_V, 0.0)
    return torch.zeros_like(probs_B_V).scatter_(-1, order_B_V, kept_B_V)
