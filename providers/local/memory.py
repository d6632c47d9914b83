"""How much memory a model will take, estimated from its files, and what would fit instead.

The weights are counted by the headers of their files, the key-value cache and what a training pass
holds by config.json. What a pass that answers holds besides is left out: it is small, and the
provider halves its batches until they fit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from providers.local.architecture import find_text_part
from providers.local.quantization import describe_format, read_format
from providers.local.settings import LocalSettings
from providers.local.weights import StoredTensor, count_stored_bytes, list_tensors
from providers.types import Hyperparameters

# NF4 has half a byte for a number, one byte for 64 of them (the scale), and 4 for 64 such bytes
# times 256. Int8 has a byte for a number and 4 for a row.
_NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
# A trained number in 4 bytes, its gradient, and the two moments of AdamW.
_TRAINED_BYTES = 16
# What Python, torch and its libraries, or a context of CUDA, take in a process of their own.
_PROCESS_BYTES = 1_000_000_000
# Tokens of a piece of an optimizer step on a CPU. A graphics card gets larger pieces, and smaller
# ones once its memory runs out.
_PIECE = 1024
# Tokens of a batch if the settings name none: 16 questions with answers of the usual length.
_USUAL_BATCH = 16 * 1024
_SMALL_BATCH = 4 * 1024
# What Python, torch, transformers and a tokenizer take on a CPU, and passes over prompts.
_PROGRAM_BYTES = 700_000_000
# The key-value cache on a CPU, where more rows at a time bring next to nothing: the cores are busy
# with a few dozen. A large model, which reads its weights for every token, may take as much again.
_CPU_CACHE_BYTES = 750_000_000
# What a layer keeps of a token for the pass back: numbers per hidden and per inner number. Measured
# on SmolLM2-135M with LoRA on all linear layers.
_KEPT_HIDDEN, _KEPT_INNER = 16, 6
# Tokens of a training pass that memory can cut no further: an example is trained in one piece.
PASS_TOKENS = {"cpu": 512, "cuda": 1024}
# Tokens whose activations a training pass keeps for its way back; in longer ones a part of the
# layers computes them again. On a graphics card only what does not fit is computed again.
KEPT_TOKENS = {"cpu": 768, "cuda": 32768}


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How a model is to be loaded and trained, as far as it decides on memory.

    `dtype_bytes` is the size of a number. `hyperparameters` is None if nothing is trained;
    `adapters` counts the tuned models that answer at the same time. `pass_tokens` are those of a
    training pass, and `program_bytes` is what the process takes besides.
    """

    dtype_bytes: int
    quantization: str | None
    batch_tokens: int
    hyperparameters: Hyperparameters | None
    adapters: int = 0
    full_models: int = 1
    pass_tokens: int = 0
    program_bytes: int = 0


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes of the base's weights, of the tuned models beside them, of training, of one batch.

    `training` is the optimizer's part, `activations` what a training pass keeps for its way back.
    """

    weights: int
    tuned: int
    training: int
    batch: int
    activations: int = 0
    program: int = 0

    @property
    def answering(self) -> int:
        """The most while the model answers."""
        return self.program + self.weights + self.tuned + self.batch

    @property
    def fitting(self) -> int:
        """The most while it is trained; 0 if it is not."""
        if not self.training:
            return 0
        return self.program + self.weights + self.tuned + self.training + self.activations

    @property
    def total(self) -> int:
        """The most at one time: the model answers or trains, and keeps its tuned models."""
        return max(self.answering, self.fitting)

    def __str__(self) -> str:
        both = self._name_parts(("program", self.program), ("weights", self.weights))
        both += self._name_parts(("tuned models", self.tuned))
        answering = ", ".join([*both, *self._name_parts(("a batch of answers", self.batch))])
        text = f"{write_size(self.answering)} to answer ({answering})"
        if not self.fitting:
            return text
        more = ("optimizer", self.training), ("a training pass", self.activations)
        training = ", ".join([*both, *self._name_parts(*more)])
        return f"{text}, {write_size(self.fitting)} to train ({training})"

    def _name_parts(self, *parts: tuple[str, int]) -> list[str]:
        return [f"{name} {write_size(size)}" for name, size in parts if size or name == "weights"]


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What decides on a model's memory: its tensors, how they are stored, and its cache.

    `slot_numbers` is how many numbers one token has in the key-value cache, and `kept_numbers` how
    many of them a training pass keeps of it, both 0 if unknown.
    """

    tensors: tuple[StoredTensor, ...]
    stored_bytes: int
    stored_format: str | None
    slot_numbers: int
    kept_numbers: int = 0

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

    def estimate_training(self, how: Hyperparameters) -> int:
        """Bytes of one adapter in training: its numbers, their gradients and moments."""
        return _TRAINED_BYTES * self.count_factor_numbers(how)

    def estimate_worker(self, plan: MemoryPlan) -> int:
        """Bytes of a process that only trains, as `plan` says."""
        tokens = max(_PIECE, plan.pass_tokens)
        alone = replace(plan, adapters=0, batch_tokens=0, pass_tokens=tokens, program_bytes=0)
        return self.estimate(alone).total + _PROCESS_BYTES

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
        tuned = training = activations = 0
        if (how := plan.hyperparameters) is not None and how.method == "full":
            # Full fine-tunes are kept in float32, so that no update is rounded away.
            tuned = 4 * self.numbers * min(plan.adapters, plan.full_models)
            training = _TRAINED_BYTES * self.numbers
        elif how is not None:
            factors = self.count_factor_numbers(how)
            tuned = plan.dtype_bytes * factors * plan.adapters
            training = self.estimate_training(how)
        if how is not None:
            activations = self._estimate_activations(plan, how)
        batch = plan.batch_tokens * self.slot_numbers * plan.dtype_bytes
        weights = self.count_weight_bytes(plan.dtype_bytes, plan.quantization)
        if plan.program_bytes:
            batch = min(batch, bound_cpu_cache(weights))
        return MemoryEstimate(weights, tuned, training, batch, activations, plan.program_bytes)

    def _estimate_activations(self, plan: MemoryPlan, how: Hyperparameters) -> int:
        kept = plan.pass_tokens
        if how.gradient_checkpointing is True:
            kept = 0
        # Only a plan for a CPU counts what the program takes.
        elif how.gradient_checkpointing == "auto" and plan.program_bytes:
            kept = min(kept, KEPT_TOKENS["cpu"])
        again = plan.pass_tokens - kept
        return (kept * self.kept_numbers + again * self.slot_numbers) * plan.dtype_bytes


def measure_model(folder: Path, gguf_file: str | None, config: Mapping[str, Any]) -> ModelSize:
    """What the files of a model say of its size; raises `ModelNotFound` if they are damaged."""
    tensors = tuple(list_tensors(folder, gguf_file))
    slot, kept = _count_slot_numbers(config), _count_kept_numbers(config)
    if gguf_file is not None:
        slot, kept = _count_gguf_numbers(tensors)
    stored = count_stored_bytes(folder, gguf_file)
    return ModelSize(tensors, stored, None if gguf_file else read_format(config), slot, kept)


def make_plan(
    settings: LocalSettings,
    dtype_bytes: int,
    hyperparameters: Hyperparameters | None = None,
    adapters: int = 0,
    longest: int = 0,
    *,
    on_cpu: bool = False,
) -> MemoryPlan:
    """What the settings say of memory; `longest` is how many tokens a trained example may have."""
    return MemoryPlan(
        dtype_bytes,
        settings.quantization,
        settings.max_batch_tokens or _USUAL_BATCH,
        hyperparameters,
        adapters,
        settings.full_models,
        max(PASS_TOKENS["cpu" if on_cpu else "cuda"], longest),
        _PROGRAM_BYTES if on_cpu else 0,
    )


def bound_cpu_cache(weight_bytes: int) -> int:
    """How many bytes the key-value cache of a model may take on a CPU, if so many are free."""
    return max(_CPU_CACHE_BYTES, weight_bytes)


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
    if how is not None and how.gradient_checkpointing is not True and plan.pass_tokens:
        recomputing = replace(how, gradient_checkpointing=True)
        yield (
            "finetune.gradient_checkpointing = true",
            replace(plan, hyperparameters=recomputing),
        )
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
    shape = find_text_part(config)
    try:
        layers = int(shape.get("num_hidden_layers") or shape["n_layer"])
        heads = int(shape.get("num_attention_heads") or shape["n_head"])
        width = int(shape.get("hidden_size") or shape["n_embd"])
        shared = int(shape.get("num_key_value_heads") or heads)
        return 2 * layers * shared * int(shape.get("head_dim") or width // heads)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return 0


def _count_kept_numbers(config: Mapping[str, Any]) -> int:
    """Numbers that a training pass keeps of a token in all layers, as far as config.json tells."""
    shape = find_text_part(config)
    try:
        layers = int(shape.get("num_hidden_layers") or shape["n_layer"])
        width = int(shape.get("hidden_size") or shape["n_embd"])
        inner = int(shape["intermediate_size"])
        return layers * (_KEPT_HIDDEN * width + _KEPT_INNER * inner)
    except (KeyError, TypeError, ValueError):
        return 0


def _count_gguf_numbers(tensors: Iterable[StoredTensor]) -> tuple[int, int]:
    """Cached numbers and kept numbers of one token, by the shapes (in, out) in a GGUF file."""
    slot = kept = 0
    for tensor in tensors:
        part = tensor.name.removesuffix(".weight").rpartition(".")[2]
        if part in ("attn_k", "attn_v"):
            slot += tensor.shape[-1]
        elif part == "attn_q":
            kept += _KEPT_HIDDEN * tensor.shape[0]
        elif part == "ffn_up":
            kept += _KEPT_INNER * tensor.shape[-1]
    return slot, kept


def write_size(count: int) -> str:
    """A number of bytes as text: "3.2 GB"."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
