"""The self-check: our decoders against transformers' own `generate`, on the very model.

A handful of prompts of unequal lengths is answered greedily, row by row, by `generate`, with
adapters applied by PEFT: the reference. Then the fastest way that the model's config suggests
answers the same rows together. Where a token differs, and the reference's own logits are not
nearly tied there, the next slower way is tried. The slowest one is the reference itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from providers.errors import Unsupported
from providers.local.backbone import Backbone
from providers.local.hardware import is_out_of_memory
from providers.local.peft_adapters import read_signature
from providers.local.plans import (
    DECODER_NAMES,
    DECODERS,
    AdapterWay,
    AnswerPlan,
    DecoderKind,
    ScoringWay,
    Verdict,
    list_windows,
)
from providers.local.reference import compute_next_logits, forget_lengths, make_decoder
from providers.local.rows import DecodingRow, answer_rows
from providers.local.scoring import Passage, compute_nats, compute_pass
from providers.local.trial_adapters import write_trial_adapter
from providers.types import Sampling

_TEXTS = (
    "Why?",
    "What is 7*8?",
    "Add 3 and 4, multiply by 12 and take away 9. What is left, and why?",
    "These are the solutions to the problem from other agents: one says 42, one says 41, since "
    "6*7 = 42. Using their reasoning as additional information, can you give an updated answer?",
)
# Answers of unequal lengths, so that rows leave a batch at different times.
_NEW_TOKENS = (8, 5, 8, 6, 4, 8)
# Fewer places than rows, so that some rows join a running batch.
_PLACES = 5
_SLOTS = 1 << 20
# How far two ways of computing may move a logit, as a share of the greatest one: what rounding
# does over all layers.
_ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 0.03, torch.float16: 0.005}
# How far rounding may move a model's predictions, in nats per token. A mean over the vocabulary: of
# tens of thousands of half-precision logits some are always far off.
_ROUNDING_NATS = {torch.float32: 1e-5, torch.bfloat16: 0.02, torch.float16: 1e-3}
# Trial adapters grow until they change an answer.
_STRENGTHS = (1.0, 8.0, 64.0, 512.0)
# The longest prompts of the check: tokens, and multiplications in all its passes over them.
_LONGEST = {"cpu": 2100, "cuda": 8300}
_WORK = {"cpu": 4e11, "cuda": 2e14}


def check_base(backbone: Backbone) -> Verdict:
    """How the bare model is answered. Raises `Unsupported` if `generate` itself cannot."""
    guess = backbone.guess_plan()
    expected = make_expected_rows(backbone)
    near, far = _make_long_rows(backbone, guess)
    _answer_by_reference(backbone, [*near, *far])
    decoder, reasons = find_decoder(
        backbone, guess.decoder, [expected, [*near, expected[0]]] if near else [expected]
    )
    if decoder in ("padded", "batch") and (
        fault := find_padding_fault(backbone, [row.prompt for row in expected])
    ):
        decoder, more = find_decoder(backbone, "length", [expected])
        reasons += [f"prompts are not padded: {fault}", *more]
    long_decoder: DecoderKind = guess.long_decoder
    if far and (fault := _find_fault(backbone, long_decoder, far)):
        long_decoder = "alone"
        reasons.append(f"long prompts: {fault}")
    scoring, scored = _check_scoring(backbone, expected)
    plan = replace(guess, decoder=decoder, long_decoder=long_decoder, scoring=scoring)
    return Verdict(plan, (*reasons, *scored))


def check_adapters(backbone: Backbone, attach: Callable[[Any], Any]) -> tuple[str, Verdict]:
    """How adapters as `attach` makes them are applied: their signature, and the verdict.

    `attach` puts PEFT's layers into a model and returns the PEFT model. Raises `Unsupported` if
    PEFT cannot do that, or if `generate` cannot answer with such an adapter.
    """
    base = backbone.plans[None]
    bare = make_expected_rows(backbone)
    with tempfile.TemporaryDirectory() as place, _forget_trials(backbone):
        rows = _answer_with_trials(backbone, attach, bare, Path(place))
        signature = read_signature(Path(place) / "1")
        expected = [*bare, *rows]
        reasons: list[str] = []
        if fault := _try_bank(backbone, base.decoder, expected, Path(place)):
            reasons.append(f"PEFT applies the adapters, one at a time: {fault}")
            way: AdapterWay = "peft"
            decoder, more = find_decoder(backbone, base.decoder, [expected])
            reasons += more
        else:
            way, decoder = "bank", base.decoder
        scoring, more = base.scoring, []
        if scoring == "padded":
            scoring, more = _check_scoring(backbone, _rename(expected, way))
    plan = AnswerPlan(decoder, base.long_decoder, base.limit, scoring, way)
    return signature, Verdict(plan, (*reasons, *more))


def _answer_with_trials(
    backbone: Backbone, attach: Callable[[Any], Any], bare: Sequence[DecodingRow], place: Path
) -> list[DecodingRow]:
    """The reference's answers with two fresh adapters, strong enough to change what is said."""
    for strength in _STRENGTHS:
        backbone.adapters.forget(_TRIALS)
        backbone.adapters.detach()
        folders = {seed: place / str(seed) for seed in (1, 2)}
        for seed, folder in folders.items():
            write_trial_adapter(backbone.model, attach, folder, seed, strength)
        for seed, folder in folders.items():
            backbone.adapters.load(_name_trial(seed, "peft"), folder, by_peft=True)
        rows = [_copy_row(row, _name_trial(1 + i % 2, "peft")) for i, row in enumerate(bare)]
        _answer_by_reference(backbone, rows)
        if any(one.answer != other.answer for one, other in zip(bare, rows, strict=True)):
            return rows
    raise Unsupported(
        f"an adapter does not change what the model {backbone.source.name!r} says, however strong "
        "it is: its layers are computed without PEFT's; train other layers, or use another model"
    )


def _try_bank(
    backbone: Backbone, decoder: DecoderKind, expected: Sequence[DecodingRow], place: Path
) -> str | None:
    """Why the bank cannot apply the trial adapters; None if it can."""
    for seed in (1, 2):
        name = _name_trial(seed, "bank")
        backbone.adapters.load(name, place / str(seed))
        if backbone.adapters.find_group(name) is not None:
            return "they are more than plain LoRA on linear layers"
    return _find_fault(backbone, decoder, expected, "bank")


def find_decoder(
    backbone: Backbone, first: DecoderKind, batches: Sequence[Sequence[DecodingRow]]
) -> tuple[DecoderKind, list[str]]:
    """The fastest decoder from `first` on that answers every batch as expected."""
    reasons: list[str] = []
    for kind in DECODERS[DECODERS.index(first) : -1]:
        faults = (_find_fault(backbone, kind, batch) for batch in batches)
        fault = next((fault for fault in faults if fault), None)
        if fault is None:
            return kind, reasons
        reasons.append(f"{DECODER_NAMES[kind]} is not used: {fault}")
    return "alone", reasons


def find_padding_fault(backbone: Backbone, prompts: Sequence[tuple[int, ...]]) -> str | None:
    """Whether padding on the left changes what follows a prompt; None if it does not.

    A few equal tokens do not show it: a recurrent layer that reads padding changes all predictions
    a little.
    """
    together_B_V = compute_next_logits(backbone, prompts)
    for prompt, logits_V in zip(prompts, together_B_V, strict=True):
        nats = _measure_kl(compute_next_logits(backbone, [prompt]), logits_V[None])
        if nats > _ROUNDING_NATS.get(backbone.dtype, 0.02):
            return f"it moves the prediction after {len(prompt)} tokens by {nats:.2g} nats"
    return None


def _find_fault(
    backbone: Backbone,
    kind: DecoderKind,
    expected: Sequence[DecodingRow],
    way: AdapterWay = "peft",
) -> str | None:
    """How the answers of this decoder differ from the expected ones; None if they do not."""
    tried = [_copy_row(row, row.adapter) for row in _rename(expected, way)]
    try:
        for rows in _group(backbone, tried):
            answer_rows(make_decoder(kind, backbone, _PLACES, _SLOTS), rows)
    # A model may raise anything where it is used otherwise than it expects.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return f"{type(error).__name__}: {str(error)[:200]}"
    faults = (_compare(backbone, e, t) for e, t in zip(expected, tried, strict=True))
    return next((fault for fault in faults if fault), None)


@torch.inference_mode()
def _compare(backbone: Backbone, expected: DecodingRow, tried: DecodingRow) -> str | None:
    pairs = zip(expected.answer, tried.answer, strict=False)
    place = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    if place is None:
        return None
    with backbone.adapters.apply([expected.adapter], 1):
        forget_lengths(backbone.model)
        tokens = torch.tensor([[*expected.prompt, *expected.answer[:place]]])
        out = backbone.model(input_ids=tokens.to(backbone.device), use_cache=False)
    logits_V = out.logits[0, -1].float()
    apart = logits_V[expected.answer[place]] - logits_V[tried.answer[place]]
    if float(apart.abs()) <= _measure_rounding(backbone, logits_V):
        return None
    return (
        f"after a prompt of {len(expected.prompt)} tokens, token {place + 1} of an answer is "
        f"{backbone.tokenizer.decode([tried.answer[place]])!r} in place of "
        f"{backbone.tokenizer.decode([expected.answer[place]])!r}"
    )


@torch.inference_mode()
def _check_scoring(backbone: Backbone, rows: Sequence[DecodingRow]) -> tuple[ScoringWay, list[str]]:
    """Whether texts can be scored together, padded on the right."""
    groups = [
        [Passage(row.adapter, (*row.prompt, *row.answer), len(row.prompt)) for row in group]
        for group in _group(backbone, rows)
    ]
    passages = [passage for group in groups for passage in group]
    alone = [compute_pass(backbone, [one], padded=False)[0] for one in passages]
    try:
        padded = [
            logits_T_V
            for group in groups
            for logits_T_V in compute_pass(backbone, group, padded=True)
        ]
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return "alone", [f"texts are scored one at a time: {error!r:.200}"]
    for one, other in zip(alone, padded, strict=True):
        if _measure_kl(one, other) > _ROUNDING_NATS.get(backbone.dtype, 0.02):
            return "alone", ["texts are scored one at a time: padding changes their scores"]
    return "padded", []


def _measure_kl(p_T_V: torch.Tensor, q_T_V: torch.Tensor) -> float:
    """Mean D(p ‖ q) over the positions, from logits."""
    return fmean(compute_nats(p_T_V, q_T_V))


def _group(backbone: Backbone, rows: Sequence[DecodingRow]) -> list[list[DecodingRow]]:
    """The rows by what may share a pass, neighbors by adapter."""

    def find_key(row: DecodingRow) -> str:
        return backbone.adapters.find_group(row.adapter) or ""

    ordered = sorted(rows, key=lambda row: (find_key(row), row.adapter or ""))
    return [list(group) for _, group in groupby(ordered, key=find_key)]


def _measure_rounding(backbone: Backbone, logits: torch.Tensor) -> float:
    """By how much rounding may change a logit."""
    return _ROUNDING.get(backbone.dtype, 0.03) * float(logits.abs().max())


def _answer_by_reference(backbone: Backbone, rows: Sequence[DecodingRow]) -> None:
    try:
        for row in rows:
            answer_rows(make_decoder("alone", backbone, 1, _SLOTS), [row])
    except Exception as error:
        if is_out_of_memory(error):
            raise
        tuned = " with an adapter" if any(row.adapter for row in rows) else ""
        raise Unsupported(
            f"transformers itself cannot answer with the model {backbone.source.name!r}{tuned}: "
            f"{error}; use another model"
        ) from error


def make_expected_rows(backbone: Backbone) -> list[DecodingRow]:
    """Rows of the base with prompts of unequal lengths, answered by the reference."""
    limit = backbone.guess_plan().limit or backbone.context
    room = max(1, min(backbone.context, limit) - max(_NEW_TOKENS))
    prompts = [tuple(backbone.tokenizer(text)["input_ids"])[:room] for text in _TEXTS]
    # Prompts of one length can be answered together without padding, which is a way of its own.
    prompts += [prompt[::-1] for prompt in prompts[-2:]]
    rows = [_make_row(prompt, new, None) for prompt, new in zip(prompts, _NEW_TOKENS, strict=True)]
    _answer_by_reference(backbone, rows)
    return rows


def _make_long_rows(
    backbone: Backbone, plan: AnswerPlan
) -> tuple[list[DecodingRow], list[DecodingRow]]:
    """Rows beyond the model's windows, and two beyond the plan's limit, as far as affordable."""
    device = "cuda" if backbone.device.type == "cuda" else "cpu"
    weights = sum(weight.numel() for weight in backbone.model.parameters())
    # Two passes of two multiplications per weight and token over each of about three prompts.
    most = min(_LONGEST[device], backbone.context, int(_WORK[device] / (12 * max(weights, 1))))
    tokens = backbone.tokenizer(" ".join(_TEXTS) + " ")["input_ids"]
    new = _NEW_TOKENS[0]

    def make(length: int) -> DecodingRow:
        return _make_row(tuple((tokens * (1 + length // len(tokens)))[:length]), new, None)

    nearest = most if plan.limit is None else min(most, plan.limit)
    config = backbone.model.config.get_text_config()
    lengths = {
        length
        for window in list_windows(config)
        for length in (window + 5, 2 * window + 3)
        if length + new <= nearest
    }
    near = [make(length) for length in sorted(lengths)[:4]]
    # The first begins before the limit and ends beyond it.
    edge = [] if plan.limit is None else [plan.limit - 3, plan.limit + 40]
    far = [make(length) for length in edge if length > 0 and length + new <= most]
    return near, far


def _make_row(prompt: tuple[int, ...], new_tokens: int, adapter: str | None) -> DecodingRow:
    return DecodingRow(prompt, adapter, Sampling(temperature=0.0, max_tokens=new_tokens), "check")


def _copy_row(row: DecodingRow, adapter: str | None) -> DecodingRow:
    """An unanswered copy of a row, for another adapter."""
    return DecodingRow(row.prompt, adapter, row.sampling, row.key)


# No adapter of a run is named like this: names of artifacts are folders in the run's.
_TRIALS = "\0trial"


def _name_trial(seed: int, way: AdapterWay) -> str:
    return f"{_TRIALS}/{seed}/{way}"


def _rename(rows: Sequence[DecodingRow], way: AdapterWay) -> list[DecodingRow]:
    """The same rows, answers included, with trial adapters applied this way, by adapter."""
    found = []
    for row in rows:
        name = row.adapter and f"{row.adapter.rpartition('/')[0]}/{way}"
        one = _copy_row(row, name)
        one.answer.extend(row.answer)
        found.append(one)
    return found


@contextmanager
def _forget_trials(backbone: Backbone) -> Iterator[None]:
    try:
        yield
    finally:
        backbone.adapters.forget(_TRIALS)
        backbone.adapters.detach()
