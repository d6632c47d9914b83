"""The reference decoder: transformers' own `generate`, with our draw of every token.

What `generate` does is right for a model by definition: it knows the model's cache, positions and
masks. Every other decoder is checked against it (`self_check`), and where one fails, this one
answers. It computes a batch to the end of its longest answer, so that it is slower.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from providers.local.backbone import Backbone
from providers.local.decode import PaddedDecoder, SlotDecoder
from providers.local.drawing import BatchSampling, choose_tokens
from providers.local.loading import silence_transformers
from providers.local.plans import DecoderKind
from providers.local.rows import Decoder, DecodingRow


class ReferenceDecoder:
    """Answers rows by `generate`; see `rows.Decoder`. One step answers a whole batch.

    `kind` says which rows are a batch: "batch" pads prompts on the left, "length" takes prompts of
    one length, "alone" one row. `is_interrupted` is asked between two tokens: it marks abandoned
    rows, and says whether to stop at once.
    """

    def __init__(
        self,
        backbone: Backbone,
        max_rows: int,
        max_tokens: int,
        kind: DecoderKind = "batch",
        is_interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self._backbone = backbone
        self._max_rows = 1 if kind == "alone" else max_rows
        self._max_tokens = max_tokens
        self._one_length = kind == "length"
        self._is_interrupted = is_interrupted
        self._rows: list[DecodingRow] = []

    @property
    def active(self) -> int:
        return len(self._rows)

    def select_fitting(self, rows: Sequence[DecodingRow]) -> list[DecodingRow]:
        if self._rows:
            return []
        taken, longest = list(rows[:1]), rows[0].longest
        for row in rows[1:]:
            if self._one_length and len(row.prompt) != len(rows[0].prompt):
                continue
            longest = max(longest, row.longest)
            if len(taken) == self._max_rows or longest * (len(taken) + 1) > self._max_tokens:
                break
            taken.append(row)
        return taken

    def admit(self, rows: Sequence[DecodingRow]) -> None:
        self._rows = sorted(rows, key=lambda row: row.adapter or "")

    @torch.inference_mode()
    def step(self) -> list[DecodingRow]:
        backbone, rows = self._backbone, self._rows
        inputs = _pad_prompts(backbone, [row.prompt for row in rows])
        chooser = _TokenChooser(rows, backbone.ends)
        forget_lengths(backbone.model)
        applied = backbone.adapters.apply([row.adapter for row in rows], len(rows))
        with applied, _use_plain_settings(backbone.model), silence_transformers():
            backbone.model.generate(
                **inputs,
                generation_config=_make_config(
                    do_sample=False,
                    max_new_tokens=max(row.sampling.max_tokens for row in rows),
                    pad_token_id=0,
                ),
                logits_processor=[chooser],
                stopping_criteria=[_RowsEnded(rows, self._is_interrupted)],
            )
        # Else no row would ever end.
        if not chooser.used:
            raise RuntimeError(
                f"the generate() of {type(backbone.model).__name__} takes no logits processors, "
                "which choose the tokens"
            )
        ended = [row for row in rows if row.finish is not None]
        self._rows = [row for row in rows if row.finish is None]
        return ended

    def shrink(self) -> None:
        self._max_rows = max(1, len(self._rows) // 2)
        self._rows = []

    def release(self) -> None:
        """Nothing is kept between batches."""


@torch.inference_mode()
def compute_next_logits(backbone: Backbone, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
    """The logits of each prompt's next token as `generate` reads them, padded, shape (B, V)."""
    keeper = _LogitsKeeper()
    forget_lengths(backbone.model)
    with _use_plain_settings(backbone.model), silence_transformers():
        backbone.model.generate(
            **_pad_prompts(backbone, prompts),
            generation_config=_make_config(do_sample=False, max_new_tokens=1, pad_token_id=0),
            logits_processor=[keeper],
        )
    return keeper.logits_B_V


def _pad_prompts(backbone: Backbone, prompts: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """The inputs of `generate`: prompts padded on the left, and the mask if the model takes one."""
    width = max(len(prompt) for prompt in prompts)
    ids = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    seen = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    inputs = {"inputs": torch.tensor(ids, device=backbone.device)}
    if "attention_mask" in inspect.signature(backbone.model.forward).parameters:
        inputs["attention_mask"] = torch.tensor(seen, device=backbone.device)
    return inputs


class _LogitsKeeper(LogitsProcessor):
    """Keeps the logits of the token that `generate` is about to choose."""

    logits_B_V: torch.Tensor

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.logits_B_V = scores.clone()
        return scores


class _TokenChooser(LogitsProcessor):
    """Draws the rows' next tokens and leaves `generate` no other choice."""

    def __init__(self, rows: Sequence[DecodingRow], ends: frozenset[int]) -> None:
        self._rows = rows
        self._ends = ends
        self.used = False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.used = True
        settings = [row.sampling for row in self._rows]
        sampling = BatchSampling.of(settings, scores.device)
        points = [row.point if row.finish is None else 0.0 for row in self._rows]
        point_B = torch.tensor(points, dtype=torch.float64)
        token_B = choose_tokens(scores, sampling, point_B, [row.known for row in self._rows])
        for row, token in zip(self._rows, token_B.tolist(), strict=True):
            if row.finish is None:
                row.extend(token, self._ends)
        left_B_V = torch.full_like(scores, -torch.inf)
        return left_B_V.scatter_(-1, token_B.to(scores.device)[:, None], 0.0)


class _RowsEnded(StoppingCriteria):
    """Which rows have ended; all of them once the decoder is interrupted."""

    def __init__(self, rows: Sequence[DecodingRow], is_interrupted: Callable[[], bool]) -> None:
        self._rows = rows
        self._is_interrupted = is_interrupted

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any
    ) -> torch.BoolTensor:
        interrupted = self._is_interrupted()
        for row in self._rows:
            if row.abandoned and row.finish is None:
                row.finish = "error"
        ended = [interrupted or row.finish is not None for row in self._rows]
        return torch.tensor(ended, device=input_ids.device)  # type: ignore[return-value]


def _make_config(**settings: Any) -> GenerationConfig:
    make: Any = GenerationConfig
    made: GenerationConfig = make(**settings)
    return made


@contextmanager
def _use_plain_settings(model: Any) -> Iterator[None]:
    """Keep a model's own sampling settings, such as a repetition penalty, out of `generate`."""
    own = model.generation_config
    model.generation_config = plain = _make_config()
    # These name tokens that a model's own code may ask for.
    for name in ("bos_token_id", "decoder_start_token_id"):
        setattr(plain, name, copy(getattr(own, name, None)))
    try:
        yield
    finally:
        model.generation_config = own


def forget_lengths(model: Any) -> None:
    """Undo what earlier, longer rows left in a model with dynamic rotary factors."""
    for module in model.modules():
        original = getattr(module, "original_inv_freq", None)
        if original is not None and getattr(module, "rope_type", None) == "dynamic":
            module.register_buffer(
                "inv_freq", original.to(module.inv_freq.device), persistent=False
            )
            module.max_seq_len_cached = module.original_max_seq_len


def make_decoder(
    kind: DecoderKind,
    backbone: Backbone,
    max_rows: int,
    max_tokens: int,
    is_interrupted: Callable[[], bool] = lambda: False,
) -> Decoder:
    """The decoder of this kind; see `plans`."""
    if kind == "slot":
        return SlotDecoder(backbone, max_rows, max_tokens)
    if kind == "padded":
        return PaddedDecoder(backbone, max_rows, max_tokens)
    return ReferenceDecoder(backbone, max_rows, max_tokens, kind, is_interrupted)
