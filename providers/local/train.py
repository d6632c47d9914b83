"""Fine-tuning in process: one model, one dataset, one artifact.

Each optimizer step takes `batch_size` examples of a seeded permutation and minimizes the mean
cross-entropy over all their trained tokens, or their loss as preferences, each multiplied by its
example's weight, into however many pieces memory cuts the step. The same spec gives the same
weights, resumed or not, bit for bit on one CPU.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from providers.artifact import Trained, load_trained, publish, set_aside
from providers.errors import (
    InvalidSettings,
    StorageFailed,
    TrainingFailed,
    Unsupported,
)
from providers.local.checkpoint import load_checkpoint, remove_leftovers, save_checkpoint
from providers.local.fit import Fit
from providers.local.hardware import is_out_of_memory
from providers.local.lora import write_adapter, write_tensors
from providers.local.pieces import Steps, complete
from providers.local.plans import read_context
from providers.local.settings import find_unsupported
from providers.local.shared_adapter import SharedAdapter
from providers.local.training_data import TrainingData, encode_data
from providers.types import FinetuneSpec, TrainingStep

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
    A full fine-tune is compared with or anchored to `base`. `on_note` gets what users should know.

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
    return complete(
        train_in_steps(
            model,
            tokenizer,
            spec,
            out,
            device=device,
            on_point=on_point,
            stop=stop,
            checkpoint_seconds=checkpoint_seconds,
            bf16=bf16,
            base=base,
            on_note=on_note,
        )
    )


def train_in_steps(
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
) -> Steps[Trained]:
    """What `finetune` does, as steps whose gradients may be computed with those of other fits."""
    if done := load_trained(out, spec.digest):
        return done
    _check_hyperparameters(spec)
    with _translate_write_errors(spec, out):
        out.parent.mkdir(parents=True, exist_ok=True)
    # Encode everything first: an unfit example must not end a fit after hours.
    data = encode_data(tokenizer, _find_context(model), spec, on_note)
    was_training = model.training
    model.train()
    fit = Fit(model, spec, data.items, torch.device(device), bf16, base, data.held_out)
    try:
        with _discard_failed_fit(out):
            yield from _run_fit(fit, spec, out, on_point, stop, checkpoint_seconds)
            yield from fit.require_sound()
            return _publish(model, tokenizer, spec, _describe_fit(fit, data, base, out))
    finally:
        fit.close()
        model.train(was_training)


def _describe_fit(fit: Fit, data: TrainingData, base: nn.Module | None, out: Path) -> Trained:
    """What is to be said of the finished fit, still without the hash of its artifact `out`."""
    answers = [item.answer for item in data.held_out or data.items]
    return Trained(
        artifact=out,
        sha256="",
        points=tuple(fit.points),
        trained_tokens=fit.trained_tokens,
        measured=tuple(fit.measured),
        base_kl=fit.measure_drift(base, answers),
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
    on_point: Callable[[TrainingStep, float], None],
    stop: threading.Event,
    checkpoint_seconds: float,
) -> Steps[None]:
    fit.prepare()
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
        point = yield from fit.take_step()
        on_point(point, point.step / fit.steps)
        if fit.ends_epoch:
            fit.measure()
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


def _find_context(model: nn.Module) -> int | None:
    config: Any = model.config
    return read_context(config.get_text_config())


def _check_hyperparameters(spec: FinetuneSpec) -> None:
    if problems := find_unsupported(spec.hyperparameters):
        foreign = spec.hyperparameters.learning_rate_multiplier is not None
        raise (Unsupported if foreign else InvalidSettings)("; ".join(problems))


def _write_weights(model: Any, tokenizer: Any, spec: FinetuneSpec, folder: Path) -> None:
    """Write a plain PEFT adapter folder, or a plain model folder with its tokenizer."""
    base = spec.start.address.removeprefix("local:")
    if spec.hyperparameters.method == "full":
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return
    # lora_B starts at zero and has a gradient from the first step on.
    if not any(w.any() for name, w in model.named_parameters() if "lora_B" in name):
        raise TrainingFailed(f"{spec.name!r} trained nothing: every lora_B is still zero")
    if isinstance(model, SharedAdapter):
        write_tensors(model.tensors, model.lora_config, folder, base)
    else:
        write_adapter(model, folder, base)
