"""The decoding loop for models whose every layer attends to all earlier tokens.

Why not `generate`: there finished rows are computed to the end of the batch, the cache is
concatenated anew for every token, and the whole batch waits for its longest prompt's padding.
Here rows leave when they end and others take their place, the cache is written in place, prompts of
similar length are read together, and a prompt that several rows share is read once.

On the CPU an answer has the same bits whatever else is in the batch: prompts are read at a length
rounded up by their own length alone, and matrix products keep to `ROW_MULTIPLE` rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import groupby

import numpy as np
import torch

from providers.local.adapters import ROW_MULTIPLE
from providers.local.backbone import Backbone
from providers.local.rows import Row, arrange, spans
from providers.local.sampling import Choice, choose
from providers.local.slots import Append, Filled, Prefill, SlotCache

_PREFILL_TOKENS = 2048
_SPARE = 8


class SlotDecoder:
    """Up to `max_rows` rows and `max_tokens` cache slots at once; see `rows.Decoder`."""

    def __init__(self, backbone: Backbone, max_rows: int, max_tokens: int) -> None:
        self._backbone = backbone
        self._max_rows = max_rows
        self._max_tokens = max_tokens
        self._cache = SlotCache(backbone.layers)
        self._lines: list[Row] = []
        self._live = 0
        self._choice = Choice.of((), backbone.device)

    @property
    def active(self) -> int:
        return self._live

    def fitting(self, rows: Sequence[Row]) -> list[Row]:
        """New rows join once an eighth of the places is free. A row longer than the cache was made
        for is let in when so few are left that moving them costs little.
        """
        slots, places = self._cache.slots, min(self._max_rows, self._cache.rows)
        if self._live and rows[0].longest <= slots:
            free = places - self._live
            short = [row for row in rows if row.longest <= slots][:free]
            return short if free >= min(len(rows), places // _SPARE) else []
        if self._live > self._max_rows // _SPARE:
            return []
        return self._filling(rows)

    @torch.inference_mode()
    def admit(self, rows: Sequence[Row]) -> None:
        alive = self._alive()
        if not alive or any(row.longest > self._cache.slots for row in rows):
            self._arrange(alive)
            extent = max((row.length for row in alive), default=0)
            longest = max(row.longest for row in (*alive, *rows))
            self._cache.reshape(*self._shape(longest), len(alive), extent)
        self._arrange([*alive, *rows])
        self._live = len(self._lines)
        new = set(rows)
        self._read([(line, row) for line, row in enumerate(self._lines) if row in new])

    @torch.inference_mode()
    def step(self) -> list[Row]:
        tokens = self._draw()
        ended = []
        for row, token in zip(self._lines, tokens, strict=True):
            if row.finish is not None:
                continue
            if row.abandoned:
                row.finish = "error"
            else:
                row.extend(token, self._backbone.ends)
            if row.finish is not None:
                ended.append(row)
        self._live -= len(ended)
        if _padded(len(self._lines)) - _padded(self._live) > len(self._lines) // _SPARE:
            self._arrange(self._alive())
        return ended

    def shrink(self) -> None:
        self._max_rows = max(1, self._live // 2)
        self._max_tokens = max(1, self._cache.rows * self._cache.slots // 2)
        self._lines, self._live = [], 0
        self.release()

    def release(self) -> None:
        self._cache.release()

    def _alive(self) -> list[Row]:
        return [row for row in self._lines if row.finish is None]

    def _shape(self, longest: int) -> tuple[int, int]:
        """Rows and slots of a cache for rows up to `longest` tokens."""
        slots = _padded(longest)
        rows = min(_padded(self._max_rows), max(1, self._max_tokens // slots))
        return rows - rows % ROW_MULTIPLE or rows, slots

    def _filling(self, rows: Sequence[Row]) -> list[Row]:
        """As many of `rows`, in order, as a new cache can hold beside those that are left."""
        longest = max((row.longest for row in self._alive()), default=0)
        taken: list[Row] = []
        for row in rows:
            longest = max(longest, row.longest)
            places = min(self._max_rows, self._shape(longest)[0]) - self._live
            if len(taken) >= places:
                break
            taken.append(row)
        return taken

    def _arrange(self, rows: Sequence[Row]) -> None:
        before = {row: line for line, row in enumerate(self._lines) if row.finish is None}
        after = arrange(rows, before)
        moves = [
            (before[row], line)
            for line, row in enumerate(after)
            if row in before and before[row] != line
        ]
        if moves:
            source_R, target_R = torch.tensor(moves, device=self._backbone.device).T
            extent = max(row.length for row in before)
            self._cache.move(source_R, target_R, extent)
        self._lines = after
        self._choice = Choice.of([row.sampling for row in after], self._backbone.device)

    def _draw(self) -> list[int]:
        device = self._backbone.device
        rows = min(_padded(len(self._lines)), self._cache.rows)
        fed_B = np.zeros((2, rows), np.int64)
        point_B = np.zeros(len(self._lines))
        for line, row in enumerate(self._lines):
            if row.finish is None:
                fed_B[:, line] = row.last, row.length - 1
                point_B[line] = row.point
        token_B, slot_B = torch.from_numpy(fed_B).to(device)
        extent = min(_padded(int(fed_B[1].max()) + 1), self._cache.slots)
        hidden_B_S = torch.arange(extent, device=device) > slot_B[:, None]
        mask_B_S = torch.zeros(hidden_B_S.shape, dtype=self._backbone.dtype, device=device)
        mask_B_S.masked_fill_(hidden_B_S, torch.finfo(self._backbone.dtype).min)
        self._cache.plan = Append(slot_B, extent)
        adapters = [row.adapter for row in self._lines]
        with self._backbone.bank.applied(spans(adapters), rows):
            logits_B_V = self._backbone.model(
                input_ids=token_B[:, None],
                position_ids=slot_B[:, None],
                attention_mask=mask_B_S[:, None, None],
                past_key_values=self._cache,
                use_cache=True,
            ).logits[: len(self._lines), -1]
        drawn_B = choose(logits_B_V, self._choice, torch.from_numpy(point_B))
        tokens: list[int] = drawn_B.tolist()
        return tokens

    def _read(self, placed: Sequence[tuple[int, Row]]) -> None:
        for width, batch in _prefills(placed):
            adapters = [adapter for adapter, _ in batch]
            source_target = [(i, line) for i, lines in enumerate(batch.values()) for line in lines]
            source_R, target_R = torch.tensor(source_target, device=self._backbone.device).T
            self._cache.plan = Prefill(source_R, target_R)
            prompts_R_W = np.zeros((len(batch), width), np.int64)
            for i, (_, prompt) in enumerate(batch):
                prompts_R_W[i, : len(prompt)] = prompt
            ids_R_W = torch.from_numpy(prompts_R_W).to(self._backbone.device)
            applied = self._backbone.bank.applied(spans(adapters), len(batch))
            with suppress(Filled), self._backbone.reading(), applied:
                self._backbone.body(input_ids=ids_R_W, past_key_values=self._cache, use_cache=True)


_Prompt = tuple[str | None, tuple[int, ...]]


def _prefills(placed: Sequence[tuple[int, Row]]) -> Iterator[tuple[int, dict[_Prompt, list[int]]]]:
    """Passes over the prompts without their last token: a width, and the lines each one fills."""
    lines: dict[_Prompt, list[int]] = {}
    for line, row in placed:
        if len(row.prompt) > 1:
            lines.setdefault((row.adapter, row.prompt[:-1]), []).append(line)
    ordered = sorted(lines, key=lambda one: (_padded(len(one[1])), one[0] or ""))
    for width, group in groupby(ordered, key=lambda one: _padded(len(one[1]))):
        prompts = list(group)
        size = max(1, _PREFILL_TOKENS // width)
        for first in range(0, len(prompts), size):
            yield width, {prompt: lines[prompt] for prompt in prompts[first : first + size]}


def _padded(count: int) -> int:
    return count + -count % ROW_MULTIPLE
