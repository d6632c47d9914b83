"""The decoding loop for every other causal model: sliding windows, recurrent layers, own masks.

Prompts are padded on the left and read together, with the cache the model makes for itself. Rows
that end leave the batch; new ones wait for the next batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from providers.local.backbone import Backbone
from providers.local.rows import Row, spans
from providers.local.sampling import Choice, choose


class PaddedDecoder:
    """Up to `max_rows` rows and `max_tokens` cache slots at once; see `rows.Decoder`."""

    def __init__(self, backbone: Backbone, max_rows: int, max_tokens: int) -> None:
        self._backbone = backbone
        self._max_rows = max_rows
        self._max_tokens = max_tokens
        self._rows: list[Row] = []
        self._cache: Any = None
        self._seen_B_S = torch.zeros(0)

    @property
    def active(self) -> int:
        return len(self._rows)

    def fitting(self, rows: Sequence[Row]) -> list[Row]:
        if self._rows:
            return []
        taken, longest = list(rows[:1]), rows[0].longest
        for row in rows[1 : self._max_rows]:
            longest = max(longest, row.longest)
            if longest * (len(taken) + 1) > self._max_tokens:
                break
            taken.append(row)
        return taken

    def admit(self, rows: Sequence[Row]) -> None:
        self._rows = sorted(rows, key=lambda row: row.adapter or "")
        self._cache = None

    @torch.inference_mode()
    def step(self) -> list[Row]:
        device = self._backbone.device
        choice = Choice.of([row.sampling for row in self._rows], device)
        point_B = torch.tensor([row.point for row in self._rows], dtype=torch.float64)
        tokens: list[int] = choose(self._logits(), choice, point_B).tolist()
        for row, token in zip(self._rows, tokens, strict=True):
            if row.abandoned:
                row.finish = "error"
            else:
                row.extend(token, self._backbone.ends)
        ended = [row for row in self._rows if row.finish is not None]
        if ended:
            self._keep([i for i, row in enumerate(self._rows) if row.finish is None])
        return ended

    def shrink(self) -> None:
        self._max_rows = max(1, len(self._rows) // 2)
        self._rows = []
        self.release()

    def release(self) -> None:
        self._cache = None

    def _logits(self) -> torch.Tensor:
        device = self._backbone.device
        if self._cache is None:
            width = max(len(row.prompt) for row in self._rows)
            ids = [[0] * (width - len(row.prompt)) + list(row.prompt) for row in self._rows]
            seen = [[0] * (width - len(row.prompt)) + [1] * len(row.prompt) for row in self._rows]
            self._seen_B_S = torch.tensor(seen, device=device)
            extra: dict[str, Any] = {"logits_to_keep": 1}
        else:
            ids = [[row.last] for row in self._rows]
            one_B_1 = self._seen_B_S.new_ones((len(ids), 1))
            self._seen_B_S = torch.cat([self._seen_B_S, one_B_1], 1)
            extra = {"past_key_values": self._cache}
        ids_B_Q = torch.tensor(ids, device=device)
        if self._backbone.takes_positions:
            position_B_S = (self._seen_B_S.cumsum(1) - 1).clamp_min(0)
            extra["position_ids"] = position_B_S[:, -ids_B_Q.shape[1] :]
        if not self._backbone.takes_logits_to_keep:
            extra.pop("logits_to_keep", None)
        adapters = [row.adapter for row in self._rows]
        with self._backbone.bank.applied(spans(adapters), len(self._rows)):
            out = self._backbone.model(
                input_ids=ids_B_Q, attention_mask=self._seen_B_S, use_cache=True, **extra
            )
        self._cache = out.past_key_values
        logits_B_V: torch.Tensor = out.logits[:, -1]
        return logits_B_V

    def _keep(self, indices: list[int]) -> None:
        self._rows = [self._rows[index] for index in indices]
        if not indices:
            self.release()
            return
        index_B = torch.tensor(indices, device=self._backbone.device)
        self._cache.reorder_cache(index_B)
        self._seen_B_S = self._seen_B_S[index_B]
