"""Fine-tuning in process: one model, one dataset, one artifact.

Each optimizer step takes `batch_size` examples of a seeded permutation and minimizes the mean
cross-entropy over all their trained tokens, into however many pieces memory cuts the step. The same
spec gives the same weights, resumed or not, bit for bit on one CPU.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from providers.artifact import Trained, load_trained, publish, set_aside
from providers.errors import (
    InvalidSettings,
    InvalidTrainingData,
    StorageFailed,
    TrainingFailed,
    Unsupported,
)
from providers.local.checkpoint import load_checkpoint, remove_leftovers, save_checkpoint
from providers.local.conversation import TrainingSequence, encode_example
from providers.local.fit import Fit
from providers.local.hardware import is_out_of_memory
from providers.local.lora import write_adapter
from providers.local.plans import read_context
from providers.local.settings import find_unsupported
from providers.types import Example, FinetuneSpec, TrainingStep

_log = logging.getLogger(__name__)

__all__ = ["Trained", "TrainingStopped", "finetune", "load_trained"]


class TrainingStopped(TrainingFailed):
    """The fit was stopped. Its checkpoint is saved; the same spec continues from there."""


def finetune(
    model: nn.Module,
    tokenizer: Any,
    spec: FinetuneSpec,
    out: Path,
    *,
    device: torch.device | str,
    on_point: Callable[[TrainingStep, float], None],
    stop: threading.Event,
    checkpoint_seconds: float = 300.0,
    bf16: bool | None = None,
    base: nn.Module | None = None,
    on_note: Callable[[str], None] = _log.info,
) -> Trained:
    """Train the parameters of `model` that require a gradient and write the result to `out`.

    `model` is already on `device`: a PEFT model whose one active adapter is trainable, or a plain
    causal model for method "full" (trainable half-precision weights become float32). Afterwards it
    holds the trained weights, or after an error those of the last step.

    `on_point` gets each step and the progress (0 to 1); after a resume it first gets the earlier
    steps. Dropout draws from torch's global generator, which no other thread may use meanwhile.
    `bf16` says whether products are computed in bfloat16; None means if `device` does so natively.
    A full fine-tune is compared with `base` at the end. `on_note` gets what the user should know.

    An artifact at `out` that has the spec's digest is returned without training; anything else
    there is set aside at the end. Every `checkpoint_seconds`, and when `stop` is set, a checkpoint
    is written beside `out`.

    Before training, raises `InvalidTrainingData`, and `Unsupported` or `InvalidSettings` for
    hyperparameters that this trainer cannot honor. Later raises `TrainingStopped`, `TrainingFailed`
    (loss not finite, weights unchanged), `StorageFailed`, and `OutOfMemory` if a single example
    does not fit.

    ```python
    with backbone.prepare_training(None, spec.hyperparameters, spec.seed) as model:
        trained = finetune(
            model, backbone.tokenizer, spec, Path("models") / spec.name,
            device=backbone.device, on_point=print, stop=threading.Event(),
        )
    ```
    """
    if done := load_trained(out, spec.digest):
        return done
    _check_hyperparameters(spec)
    with _translate_write_errors(spec, out):
        out.parent.mkdir(parents=True, exist_ok=True)
    # Encode everything first: an unfit example must not end a fit after hours.
    data = _encode_all(model, tokenizer, spec, on_note)
    was_training = model.training
    model.train()
    fit = Fit(model, spec, data.sequences, torch.device(device), bf16)
    try:
        with _discard_failed_fit(out):
            _run_fit(fit, spec, out, data.held_out, on_point, stop, checkpoint_seconds)
            fit.require_sound()
            return _publish(model, tokenizer, spec, _describe_fit(fit, data, base, out))
    finally:
        fit.close()
        model.train(was_training)


@dataclass(frozen=True)
class _TrainingData:
    """What is trained on, what is only measured, and how many examples were too long."""

    sequences: list[TrainingSequence]
    held_out: list[TrainingSequence]
    left_out: int


def _describe_fit(fit: Fit, data: _TrainingData, base: nn.Module | None, out: Path) -> Trained:
    """What is to be said of the finished fit, still without the hash of its artifact `out`."""
    return Trained(
        artifact=out,
        sha256="",
        points=tuple(fit.points),
        trained_tokens=fit.trained_tokens,
        measured=tuple(fit.measured),
        base_kl=fit.measure_drift(base, data.held_out or data.sequences),
        left_out=data.left_out,
    )


@contextmanager
def _discard_failed_fit(out: Path) -> Iterator[None]:
    """Remove the checkpoint of a fit that fails; keep that of one that is stopped."""
    try:
        yield
    except (TrainingStopped, StorageFailed):
        raise
    except TrainingFailed:
        # A fit that has failed would fail again from its checkpoint.
        remove_leftovers(out)
        raise


def _publish(model: nn.Module, tokenizer: Any, spec: FinetuneSpec, fit: Trained) -> Trained:
    """Write the artifact in its place, and remove its checkpoint."""
    out = fit.artifact
    with _translate_write_errors(spec, out):
        _make_room(out, spec)
        trained = publish(
            out, spec, lambda folder: _write_weights(model, tokenizer, spec, folder), fit
        )
        remove_leftovers(out)
    return trained


def _make_room(out: Path, spec: FinetuneSpec) -> None:
    """Set aside a damaged or foreign artifact in the artifact's place."""
    if out.exists() or out.is_symlink():
        aside = set_aside(out)
        _log.warning(
            "%s was not the whole artifact of %r; it is set aside as %s", out, spec.name, aside.name
        )


def _run_fit(
    fit: Fit,
    spec: FinetuneSpec,
    out: Path,
    held_out: list[TrainingSequence],
    on_point: Callable[[TrainingStep, float], None],
    stop: threading.Event,
    checkpoint_seconds: float,
) -> None:
    if checkpoint := load_checkpoint(out, spec.digest):
        fit.resume(checkpoint)
    for point in fit.points:
        on_point(point, point.step / fit.steps)
    saved = time.monotonic()
    while len(fit.points) < fit.steps:
        if stop.is_set():
            _save_state(fit, spec, out)
            raise TrainingStopped(
                f"{spec.name!r} was stopped after step {len(fit.points)} of {fit.steps}; "
                "submit it again to continue from there"
            )
        point = fit.step()
        on_point(point, point.step / fit.steps)
        if held_out and fit.ends_epoch:
            fit.measure(held_out)
        if time.monotonic() - saved >= checkpoint_seconds:
            _save_state(fit, spec, out)
            saved = time.monotonic()


def _save_state(fit: Fit, spec: FinetuneSpec, out: Path) -> None:
    with _translate_write_errors(spec, out):
        save_checkpoint(out, fit.checkpoint())


@contextmanager
def _translate_write_errors(spec: FinetuneSpec, out: Path) -> Iterator[None]:
    """Raise write errors of torch, safetensors and the system as `StorageFailed`."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        raise StorageFailed(
            f"{spec.name!r} cannot be written to {out.parent}: {error}; free some space "
            "or quota there, or make it writable; the last saved state is still there"
        ) from error


def _check_hyperparameters(spec: FinetuneSpec) -> None:
    if problems := find_unsupported(spec.hyperparameters):
        foreign = spec.hyperparameters.learning_rate_multiplier is not None
        raise (Unsupported if foreign else InvalidSettings)("; ".join(problems))


def _encode_all(
    model: nn.Module, tokenizer: Any, spec: FinetuneSpec, on_note: Callable[[str], None]
) -> _TrainingData:
    """All examples as token sequences; `InvalidTrainingData` if none is left to train on."""
    if not spec.examples:
        raise InvalidTrainingData(f"{spec.name!r} has no training examples")
    sequences = _encode_examples(model, tokenizer, spec, spec.examples)
    if not sequences:
        raise InvalidTrainingData(
            f"{spec.name!r} has nothing to train on: all {len(spec.examples)} "
            f"{_describe_left_out(spec)}; raise it"
        )
    held_out = _encode_examples(model, tokenizer, spec, spec.validation)
    if left_out := len(spec.examples) - len(sequences):
        on_note(f"{left_out} of {len(spec.examples)} {_describe_left_out(spec)}")
    return _TrainingData(sequences, held_out, left_out)


def _encode_examples(
    model: nn.Module, tokenizer: Any, spec: FinetuneSpec, examples: Sequence[Example]
) -> list[TrainingSequence]:
    """Examples as token sequences, without those that `max_example_tokens` leaves out.

    Raises `InvalidTrainingData` for the first unfit one.
    """
    config: Any = model.config
    context = read_context(config.get_text_config())
    most = spec.hyperparameters.max_example_tokens
    sequences = []
    for number, example in enumerate(examples):
        try:
            sequence = encode_example(tokenizer, example)
        except InvalidTrainingData as error:
            raise InvalidTrainingData(f"example {number} of {spec.name!r}: {error}") from error
        if most is not None and len(sequence.token_ids) > most:
            continue
        # The last token is only a target, so the model does not read it.
        if context and len(sequence.token_ids) - 1 > context:
            raise InvalidTrainingData(
                f"example {number} of {spec.name!r} has {len(sequence.token_ids)} tokens, more "
                f"than the model's context of {context}; leave it out with "
                f"finetune.max_example_tokens = {context}, or shorten the debate"
            )
        sequences.append(sequence)
    return sequences


def _describe_left_out(spec: FinetuneSpec) -> str:
    most = spec.hyperparameters.max_example_tokens
    return f"examples are longer than finetune.max_example_tokens = {most} and are left out"


def _write_weights(model: Any, tokenizer: Any, spec: FinetuneSpec, folder: Path) -> None:
    """Write a plain PEFT adapter folder, or a plain model folder with its tokenizer."""
    if spec.hyperparameters.method == "full":
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return
    # lora_B starts at zero and has a gradient from the first step on.
    if not any(w.any() for name, w in model.named_parameters() if "lora_B" in name):
        raise TrainingFailed(f"{spec.name!r} trained nothing: every lora_B is still zero")
    write_adapter(model, folder, spec.start.address.removeprefix("local:"))
