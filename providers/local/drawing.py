"""How the next token of an answer is drawn.

An answer depends on its request alone. The noise of request (seed, key) is one fixed stream of
uniform numbers, one per answer token: Philox-4x64 keyed with BLAKE2b of both, so that no request
shares or shifts another's stream. A token is the inverse of the distribution function, in token
order and double precision, at that number. If rounding moved the probabilities by a total of e, the
token would change with a probability of about e.

The settings act in the order of `generate` of transformers: repetition penalty, temperature, top-k,
top-p, min-p. The penalty changes greedy answers too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch

from providers.types import Sampling


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
    """The sampling settings of a batch's rows: tensors on the model's device.

    `sampled`: at least one row is not greedy. `nucleus`, `floor`: at least one such row uses top-p
    or min-p; `most_k` is the greatest top-k of such rows, 0 without any. `penalized`: at least one
    row has a repetition penalty.
    """

    temperature_B: torch.Tensor
    top_k_B: torch.Tensor
    top_p_B: torch.Tensor
    min_p_B: torch.Tensor
    penalty_B: torch.Tensor
    sampled: bool
    most_k: int
    nucleus: bool
    floor: bool
    penalized: bool

    @classmethod
    def of(cls, rows: Sequence[Sampling], device: torch.device) -> BatchSampling:
        """The settings of these rows, in order."""
        drawn = [row for row in rows if row.temperature > 0]
        return cls(
            torch.tensor([row.temperature for row in rows], device=device),
            torch.tensor([row.top_k for row in rows], device=device),
            torch.tensor([row.top_p for row in rows], device=device),
            torch.tensor([row.min_p for row in rows], device=device),
            torch.tensor([row.repetition_penalty for row in rows], device=device),
            sampled=bool(drawn),
            most_k=max((row.top_k for row in drawn), default=0),
            nucleus=any(row.top_p < 1 for row in drawn),
            floor=any(row.min_p > 0 for row in drawn),
            penalized=any(row.repetition_penalty != 1 for row in rows),
        )


def choose_tokens(
    logits_B_V: torch.Tensor,
    sampling: BatchSampling,
    noise_B: torch.Tensor,
    known: Sequence[np.ndarray] = (),
) -> torch.Tensor:
    """One token per row, int64, shape (B,). Of equal greatest logits the lowest token id wins.

    `noise_B` is float64 in [0, 1). Rows of temperature 0 ignore it. `known` has the tokens of every
    row's prompt and answer; only those of rows with a repetition penalty are read.
    """
    # MPS has no double precision.
    if logits_B_V.device.type == "mps":
        logits_B_V = logits_B_V.cpu()
    logits_B_V = logits_B_V.float()
    if sampling.penalized:
        logits_B_V = _penalize(logits_B_V, sampling.penalty_B.to(logits_B_V.device), known)
    greedy_B = logits_B_V.argmax(-1)
    if not sampling.sampled:
        return greedy_B
    temperature_B = sampling.temperature_B.to(logits_B_V.device)
    logits_B_V = logits_B_V / temperature_B.clamp_min(1e-6)[:, None]
    if sampling.most_k:
        logits_B_V = _keep_likeliest(
            logits_B_V, sampling.top_k_B.to(logits_B_V.device), sampling.most_k
        )
    probs_B_V = torch.softmax(logits_B_V, -1)
    if sampling.nucleus:
        probs_B_V = _keep_nucleus(probs_B_V, sampling.top_p_B.to(logits_B_V.device))
    if sampling.floor:
        least_B = sampling.min_p_B.to(logits_B_V.device) * probs_B_V.amax(-1)
        probs_B_V = probs_B_V.masked_fill(probs_B_V < least_B[:, None], 0.0)
    mass_B_V = probs_B_V.cumsum(-1, dtype=torch.float64)
    point_B_1 = noise_B.to(mass_B_V.device)[:, None] * mass_B_V[:, -1:]
    drawn_B = torch.searchsorted(mass_B_V, point_B_1, right=True)[:, 0]
    # Rounding can put the point at the very end of the mass.
    drawn_B = drawn_B.clamp_max(logits_B_V.shape[-1] - 1)
    return torch.where(temperature_B > 0, drawn_B, greedy_B)


def _penalize(
    logits_B_V: torch.Tensor, penalty_B: torch.Tensor, known: Sequence[np.ndarray]
) -> torch.Tensor:
    """The logits of known tokens divided by the penalty, or multiplied where negative."""
    rows, words = logits_B_V.shape
    # A model may read tokens that it cannot write; a last column takes them in. Rows without a
    # penalty know no token, and the column fills them up.
    ids_B_L = np.full((rows, max(map(len, known))), words, np.int64)
    for row, tokens in enumerate(known):
        ids_B_L[row, : len(tokens)] = np.minimum(tokens, words)
    index_B_L = torch.from_numpy(ids_B_L).to(logits_B_V.device)
    wider_B_V = torch.nn.functional.pad(logits_B_V, (0, 1))
    found_B_L = wider_B_V.gather(-1, index_B_L)
    factor_B_1 = penalty_B[:, None]
    changed_B_L = torch.where(found_B_L < 0, found_B_L * factor_B_1, found_B_L / factor_B_1)
    return wider_B_V.scatter(-1, index_B_L, changed_B_L)[:, :words]


def _keep_likeliest(logits_B_V: torch.Tensor, top_k_B: torch.Tensor, most_k: int) -> torch.Tensor:
    """The logits of the top_k likeliest tokens and of any that equal the last of them, else -inf.

    Rows with top_k 0 keep all.
    """
    best_B_K = logits_B_V.topk(min(most_k, logits_B_V.shape[-1])).values
    place_B_1 = top_k_B.clamp(1, best_B_K.shape[-1])[:, None] - 1
    least_B_1 = best_B_K.gather(-1, place_B_1).masked_fill(top_k_B[:, None] == 0, -torch.inf)
    return logits_B_V.masked_fill(logits_B_V < least_B_1, -torch.inf)


def _keep_nucleus(probs_B_V: torch.Tensor, top_p_B: torch.Tensor) -> torch.Tensor:
    """The smallest set of likeliest tokens whose mass reaches top_p, zeros elsewhere."""
    sorted_B_V, order_B_V = probs_B_V.sort(stable=True, dim=-1, descending=True)
    before_B_V = sorted_B_V.cumsum(-1, dtype=torch.float64) - sorted_B_V
    kept_B_V = torch.where(before_B_V < top_p_B[:, None], sorted_B_V, 0.0)
    return torch.zeros_like(probs_B_V).scatter_(-1, order_B_V, kept_B_V)
