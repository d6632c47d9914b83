"""The two decoding loops: `SlotDecoder`, and `PaddedDecoder` for the models it cannot run.

`SlotDecoder` is for models whose every layer attends to all earlier tokens. It does what `generate`
does not: rows leave when they end and others take their place, the cache is written in place,
prompts of similar length are read together, and a prompt that several rows share is read once.
`generate` would compute ended rows to the end of the batch, concatenate the cache anew for every
token, and pad every prompt to the longest.

On the CPU an answer of a `SlotDecoder` has the same bits whatever else is in the batch: prompts are
read at a length rounded up by their own length alone, and matrix products keep to `ROW_MULTIPLE`
rows (see `adapters`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any

import numpy as np
import torch

from providers.local.adapters import ROW_MULTIPLE, round_up
from providers.local.backbone import Backbone
from providers.local.drawing import BatchSampling, choose_tokens
from providers.local.rows import DecodingRow, arrange_rows
from providers.local.slot_cache import DecodePlan, PrefillDone, PrefillPlan, SlotCache

# Prompt tokens of one forward pass, so that its activations stay small.
_PREFILL_TOKENS = 2048
# New rows join, and ended rows are removed, when they make up one part in this many of the batch:
# rearranging copies cache lines, and an empty line costs a row of every matrix product.
_SPARE = 8


class SlotDecoder:
    """Holds up to `max_rows` rows and `max_tokens` cache slots at once; see `rows.Decoder`."""

    def __init__(self, backbone: Backbone, max_rows: int, max_tokens: int) -> None:
        self._backbone = backbone
        self._max_rows = max_rows
        self._max_tokens = max_tokens
        self._cache = SlotCache(backbone.layers)
        self._lines: list[DecodingRow] = []
        self._active = 0
        self._sampling = BatchSampling.of((), backbone.device)

    @property
    def active(self) -> int:
        return self._active

    def select_fitting(self, rows: Sequence[DecodingRow]) -> list[DecodingRow]:
        """The rows to admit: new rows join once an eighth of the places is free.

        A row longer than the cache was made for joins once so few rows are left that moving them
        costs little.
        """
        slots, places = self._cache.slots, min(self._max_rows, self._cache.rows)
        if self._active and rows[0].longest <= slots:
            free = places - self._active
            fitting = [row for row in rows if row.longest <= slots][:free]
            return fitting if free >= min(len(rows), places // _SPARE) else []
        if self._active > self._max_rows // _SPARE:
            return []
        return self._select_for_new_cache(rows)

    @torch.inference_mode()
    def admit(self, rows: Sequence[DecodingRow]) -> None:
        unfinished = self._list_unfinished()
        if not unfinished or any(row.longest > self._cache.slots for row in rows):
            self._arrange(unfinished)
            extent = max((row.length for row in unfinished), default=0)
            longest = max(row.longest for row in (*unfinished, *rows))
            self._cache.reshape(*self._compute_shape(longest), len(unfinished), extent)
        self._arrange([*unfinished, *rows])
        self._active = len(self._lines)
        new = set(rows)
        self._prefill([(line, row) for line, row in enumerate(self._lines) if row in new])

    @torch.inference_mode()
    def step(self) -> list[DecodingRow]:
        tokens = self._draw_tokens()
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
        self._active -= len(ended)
        if round_up(len(self._lines)) - round_up(self._active) > len(self._lines) // _SPARE:
            self._arrange(self._list_unfinished())
        return ended

    def shrink(self) -> None:
        self._max_rows = max(1, self._active // 2)
        self._max_tokens = max(1, self._cache.rows * self._cache.slots // 2)
        self._lines, self._active = [], 0
        self.release()

    def release(self) -> None:
        self._cache.release()

    def _list_unfinished(self) -> list[DecodingRow]:
        return [row for row in self._lines if row.finish is None]

    def _compute_shape(self, longest: int) -> tuple[int, int]:
        """How many rows and slots a cache for rows of up to `longest` tokens has."""
        slots = round_up(longest)
        rows = min(round_up(self._max_rows), max(1, self._max_tokens // slots))
        return rows - rows % ROW_MULTIPLE or rows, slots

    def _select_for_new_cache(self, rows: Sequence[DecodingRow]) -> list[DecodingRow]:
        """As many of `rows`, in order, as a new cache can hold beside the unfinished rows."""
        longest = max((row.longest for row in self._list_unfinished()), default=0)
        taken: list[DecodingRow] = []
        for row in rows:
            longest = max(longest, row.longest)
            places = min(self._max_rows, self._compute_shape(longest)[0]) - self._active
            if len(taken) >= places:
                break
            taken.append(row)
        return taken

    def _arrange(self, rows: Sequence[DecodingRow]) -> None:
        """Give the rows lines side by side, by adapter, and move their cache lines there."""
        before = {row: line for line, row in enumerate(self._lines) if row.finish is None}
        after = arrange_rows(rows, before)
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
        self._sampling = BatchSampling.of([row.sampling for row in after], self._backbone.device)

    def _draw_tokens(self) -> list[int]:
        """The next token of every line, from one forward pass; ended lines get any token."""
        device = self._backbone.device
        rows = min(round_up(len(self._lines)), self._cache.rows)
        fed_B = np.zeros((2, rows), np.int64)
        point_B = np.zeros(len(self._lines))
        for line, row in enumerate(self._lines):
            if row.finish is None:
                fed_B[:, line] = row.last, row.length - 1
                point_B[line] = row.point
        token_B, slot_B = torch.from_numpy(fed_B).to(device)
        extent = min(round_up(int(fed_B[1].max()) + 1), self._cache.slots)
        # A row attends to its own slots up to the newest token. Later slots hold padding or keys of
        # a row that had the line before, and are masked out.
        hidden_B_S = torch.arange(extent, device=device) > slot_B[:, None]
        mask_B_S = torch.zeros(hidden_B_S.shape, dtype=self._backbone.dtype, device=device)
        mask_B_S.masked_fill_(hidden_B_S, torch.finfo(self._backbone.dtype).min)
        self._cache.plan = DecodePlan(slot_B, extent)
        adapters = [row.adapter for row in self._lines]
        with self._backbone.adapters.apply(adapters, rows):
            logits_B_V = self._backbone.model(
                input_ids=token_B[:, None],
                position_ids=slot_B[:, None],
                attention_mask=mask_B_S[:, None, None],
                past_key_values=self._cache,
                use_cache=True,
            ).logits[: len(self._lines), -1]
        known = [row.known for row in self._lines]
        drawn_B = choose_tokens(logits_B_V, self._sampling, torch.from_numpy(point_B), known)
        tokens: list[int] = drawn_B.tolist()
        return tokens

    def _prefill(self, placed: Sequence[tuple[int, DecodingRow]]) -> None:
        """Write the keys and values of the prompts into the rows' lines of the cache."""
        for width, batch in _plan_prefills(placed):
            adapters = [adapter for adapter, _ in batch]
            # One pass may read a prompt that several rows share: it is copied to all their lines.
            source_target = [(i, line) for i, lines in enumerate(batch.values()) for line in lines]
            source_R, target_R = torch.tensor(source_target, device=self._backbone.device).T
            self._cache.plan = PrefillPlan(source_R, target_R)
            prompts_R_W = np.zeros((len(batch), width), np.int64)
            for i, (_, prompt) in enumerate(batch):
                prompts_R_W[i, : len(prompt)] = prompt
            ids_R_W = torch.from_numpy(prompts_R_W).to(self._backbone.device)
            applied = self._backbone.adapters.apply(adapters, len(batch))
            with suppress(PrefillDone), self._backbone.use_prompt_attention(), applied:
                self._backbone.body(input_ids=ids_R_W, past_key_values=self._cache, use_cache=True)


_AdapterPrompt = tuple[str | None, tuple[int, ...]]


def _plan_prefills(
    placed: Sequence[tuple[int, DecodingRow]],
) -> Iterator[tuple[int, dict[_AdapterPrompt, list[int]]]]:
    """The passes over the prompts without their last token: a width, and the lines per prompt."""
    # The last token is read by the first decoding step, which draws the first token of the answer.
    lines: dict[_AdapterPrompt, list[int]] = {}
    for line, row in placed:
        if len(row.prompt) > 1:
            lines.setdefault((row.adapter, row.prompt[:-1]), []).append(line)
    ordered = sorted(lines, key=lambda one: (round_up(len(one[1])), one[0] or ""))
    for width, group in groupby(ordered, key=lambda one: round_up(len(one[1]))):
        prompts = list(group)
        size = max(1, _PREFILL_TOKENS // width)
        for first in range(0, len(prompts), size):
            yield width, {prompt: lines[prompt] for prompt in prompts[first : first + size]}


class PaddedDecoder:
    """For every other causal model: sliding windows, recurrent layers, masks of its own.

    Prompts are padded on the left and read together, with the cache that the model makes for
    itself. Rows that end leave the batch; new ones wait for the next batch. Holds up to `max_rows`
    rows and `max_tokens` cache slots; see `rows.Decoder`.
    """

    def __init__(self, backbone: Backbone, max_rows: int, max_tokens: int) -> None:
        self._backbone = backbone
        self._max_rows = max_rows
        self._max_tokens = max_tokens
        self._rows: list[DecodingRow] = []
        self._cache: Any = None
        self._seen_B_S = torch.zeros(0)

    @property
    def active(self) -> int:
        return len(self._rows)

    def select_fitting(self, rows: Sequence[DecodingRow]) -> list[DecodingRow]:
        if self._rows:
            return []
        taken, longest = list(rows[:1]), rows[0].longest
        for row in rows[1 : self._max_rows]:
            longest = max(longest, row.longest)
            if longest * (len(taken) + 1) > self._max_tokens:
                break
            taken.append(row)
        return taken

    def admit(self, rows: Sequence[DecodingRow]) -> None:
        self._rows = sorted(rows, key=lambda row: row.adapter or "")
        self._cache = None

    @torch.inference_mode()
    def step(self) -> list[DecodingRow]:
        device = self._backbone.device
        sampling = BatchSampling.of([row.sampling for row in self._rows], device)
        point_B = torch.tensor([row.point for row in self._rows], dtype=torch.float64)
        known = [row.known for row in self._rows]
        drawn_B = choose_tokens(self._compute_logits(), sampling, point_B, known)
        tokens: list[int] = drawn_B.tolist()
        for row, token in zip(self._rows, tokens, strict=True):
            if row.abandoned:
                row.finish = "error"
            else:
                row.extend(token, self._backbone.ends)
        ended = [row for row in self._rows if row.finish is not None]
        if ended:
            self._keep_rows([i for i, row in enumerate(self._rows) if row.finish is None])
        return ended

    def shrink(self) -> None:
        self._max_rows = max(1, len(self._rows) // 2)
        self._rows = []
        self.release()

    def release(self) -> None:
        self._cache = None

    def _compute_logits(self) -> torch.Tensor:
        """The logits of every row's next token, (B, V): a first pass reads the whole prompts."""
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
        # Without it a model computes the logits of the whole prompt, of which the last are used.
        if not self._backbone.takes_logits_to_keep:
            extra.pop("logits_to_keep", None)
        adapters = [row.adapter for row in self._rows]
        with self._backbone.adapters.apply(adapters, len(self._rows)):
            out = self._backbone.model(
                input_ids=ids_B_Q, attention_mask=self._seen_B_S, use_cache=True, **extra
            )
        self._cache = out.past_key_values
        logits_B_V: torch.Tensor = out.logits[:, -1]
        return logits_B_V

    def _keep_rows(self, indices: list[int]) -> None:
        self._rows = [self._rows[index] for index in indices]
        if not indices:
            self.release()
            return
        index_B = torch.tensor(indices, device=self._backbone.device)
        self._cache.reorder_cache(index_B)
        self._seen_B_S = self._seen_B_S[index_B]
