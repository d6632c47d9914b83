"""How much memory a model will take, estimated from its files, and what would fit instead.

The weights are counted by the headers of their files, the key-value cache by config.json. What a
forward pass holds besides is left out: the provider halves its batches until they fit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from providers.local.quantization import describe_format, read_format
from providers.local.settings import LocalSettings
from providers.local.weights import StoredTensor, count_stored_bytes, list_tensors
from providers.types import Hyperparameters

# NF4 has half a byte for a number, one byte for 64 of them (the scale), and 4 for 64 such bytes
# times 256. Int8 has a byte for a number and 4 for a row.
_NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
# A trained number in 4 bytes, its gradient, and the two moments of AdamW.
_TRAINED_BYTES = 16
# Tokens of a batch if the settings name none: 16 questions with answers of the usual length.
_USUAL_BATCH = 16 * 1024
_SMALL_BATCH = 4 * 1024


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How a model is to be loaded and trained, as far as it decides on memory.

    `dtype_bytes` is the size of a number. `hyperparameters` is None if nothing is trained;
    `adapters` counts the tuned models that answer at the same time.
    """

    dtype_bytes: int
    quantization: str | None
    batch_tokens: int
    hyperparameters: Hyperparameters | None
    adapters: int = 0
    full_models: int = 1


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes of the base's weights, of the tuned models beside them, of training, of one batch."""

    weights: int
    tuned: int
    training: int
    batch: int

    @property
    def total(self) -> int:
        """The most at one time: the model answers or trains, and keeps its tuned models."""
        return self.weights + self.tuned + max(self.training, self.batch)

    def __str__(self) -> str:
        parts = [f"weights {write_size(self.weights)}"]
        if self.tuned:
            parts.append(f"tuned models {write_size(self.tuned)}")
        if self.training:
            parts.append(f"training {write_size(self.training)}")
        return ", ".join([*parts, f"a batch of answers {write_size(self.batch)}"])


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What decides on a model's memory: its tensors, how they are stored, and its cache.

    `slot_numbers` is how many numbers one token has in the key-value cache, 0 if unknown.
    """

    tensors: tuple[StoredTensor, ...]
    stored_bytes: int
    stored_format: str | None
    slot_numbers: int

    @property
    def is_packed(self) -> bool:
        """Whether the weights are quantized in the files and stay so in memory."""
        return self.stored_format is not None and not describe_format(self.stored_format).unpacked

    @property
    def numbers(self) -> int:
        """How many weights the model has, 0 if its files do not say."""
        return sum(tensor.numbers for tensor in self.tensors)

    def count_factor_numbers(self, how: Hyperparameters) -> int:
        """How many numbers an adapter on every linear layer, and on experts if asked for, has."""
        # The factors of a (rows, columns) matrix have rank * (rows + columns) numbers.
        widths = sum(sum(tensor.shape) for tensor in self.tensors if tensor.is_linear)
        if how.lora_experts:
            experts = [tensor.shape for tensor in self.tensors if tensor.is_expert]
            widths += sum(math.prod(shape[:-2]) * sum(shape[-2:]) for shape in experts)
        return how.lora_rank * widths

    def count_artifact_bytes(self, hyperparameters: Hyperparameters) -> int | None:
        """Bytes of one tuned model on the disk, in float32; None if the files do not say."""
        if not self.tensors or self.is_packed:
            return None
        if hyperparameters.method == "full":
            return 4 * self.numbers
        return 4 * self.count_factor_numbers(hyperparameters)

    def count_weight_bytes(self, dtype_bytes: int, quantization: str | None) -> int:
        """Bytes of the weights once they are loaded."""
        if self.is_packed or not self.tensors:
            return self.stored_bytes
        total = 0.0
        for tensor in self.tensors:
            if quantization == "nf4" and tensor.is_linear:
                total += tensor.numbers * _NF4_BYTES
            elif quantization == "int8" and tensor.is_linear:
                total += tensor.numbers + 4 * tensor.shape[0]
            else:
                total += tensor.numbers * dtype_bytes
        return round(total)

    def estimate(self, plan: MemoryPlan) -> MemoryEstimate:
        """The memory that `plan` takes."""
        tuned = training = 0
        if (how := plan.hyperparameters) is not None and how.method == "full":
            # Full fine-tunes are kept in float32, so that no update is rounded away.
            tuned = 4 * self.numbers * min(plan.adapters, plan.full_models)
            training = _TRAINED_BYTES * self.numbers
        elif how is not None:
            factors = self.count_factor_numbers(how)
            tuned = plan.dtype_bytes * factors * plan.adapters
            training = _TRAINED_BYTES * factors
        batch = plan.batch_tokens * self.slot_numbers * plan.dtype_bytes
        weights = self.count_weight_bytes(plan.dtype_bytes, plan.quantization)
        return MemoryEstimate(weights, tuned, training, batch)


def measure_model(folder: Path, gguf_file: str | None, config: Mapping[str, Any]) -> ModelSize:
    """What the files of a model say of its size; raises `ModelNotFound` if they are damaged."""
    return ModelSize(
        tuple(list_tensors(folder, gguf_file)),
        count_stored_bytes(folder, gguf_file),
        None if gguf_file else read_format(config),
        _count_slot_numbers(config),
    )


def make_plan(
    settings: LocalSettings,
    dtype_bytes: int,
    hyperparameters: Hyperparameters | None = None,
    adapters: int = 0,
) -> MemoryPlan:
    """What the settings say of memory."""
    return MemoryPlan(
        dtype_bytes,
        settings.quantization,
        settings.max_batch_tokens or _USUAL_BATCH,
        hyperparameters,
        adapters,
        settings.full_models,
    )


def find_remedies(size: ModelSize, plan: MemoryPlan, free: int) -> str:
    """What would fit into `free` bytes, with its size, most harmless first; else what to do."""
    fitting = []
    for text, other in _list_alternatives(size, plan):
        needed = size.estimate(other).total
        if needed <= free:
            fitting.append(f"{text} ({write_size(needed)})")
    if fitting:
        return "what would fit: " + "; ".join(fitting)
    return (
        "neither fewer bits, smaller batches nor LoRA would fit; take a smaller model or a machine "
        "with more memory, or spread the model with device_map = 'auto'"
    )


def _list_alternatives(size: ModelSize, plan: MemoryPlan) -> Iterator[tuple[str, MemoryPlan]]:
    """Single changes of a plan, and those changes in fewer bits that need LoRA too."""
    if plan.batch_tokens > _SMALL_BATCH:
        text = f"max_batch_tokens = {_SMALL_BATCH}"
        yield text, replace(plan, batch_tokens=_SMALL_BATCH)
    if plan.dtype_bytes > 2:
        yield "dtype = 'bfloat16'", replace(plan, dtype_bytes=2)
    how, extra = plan.hyperparameters, ""
    if how is not None and how.method == "full":
        plan = replace(plan, hyperparameters=replace(how, method="lora"))
        extra = "finetune.method = 'lora'"
        yield extra, plan
        extra = f" with {extra}"
    if plan.quantization is None and size.stored_format is None and size.tensors:
        yield f"quantization = 'int8'{extra}", replace(plan, quantization="int8", dtype_bytes=2)
    if plan.quantization != "nf4" and size.stored_format is None and size.tensors:
        yield f"quantization = 'nf4'{extra}", replace(plan, quantization="nf4", dtype_bytes=2)


def _count_slot_numbers(config: Mapping[str, Any]) -> int:
    """Numbers of one token's keys and values in all layers, as far as config.json tells."""
    nested = config.get("text_config")
    shape = nested if isinstance(nested, Mapping) else config
    try:
        layers = int(shape.get("num_hidden_layers") or shape["n_layer"])
        heads = int(shape.get("num_attention_heads") or shape["n_head"])
        width = int(shape.get("hidden_size") or shape["n_embd"])
        shared = int(shape.get("num_key_value_heads") or heads)
        return 2 * layers * shared * int(shape.get("head_dim") or width // heads)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return 0


def write_size(count: int) -> str:
    """A number of bytes as text: "3.2 GB"."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
