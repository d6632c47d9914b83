"""Checks a local model before a run, from its files; loads neither torch nor a model.

Sizes are estimates from the files and from `config.json`. They only serve to warn in time.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from providers.errors import ProviderError
from providers.local.deep_check import describe_kept_checks, try_model
from providers.local.quantization import find_training_faults, read_format
from providers.local.schedule import describe_small_reach
from providers.local.settings import CAPABILITIES, LocalSettings, find_unsupported
from providers.local.source import (
    ModelSource,
    check_config,
    find_folder,
    locate_model,
    read_config,
    read_special_tokens,
    read_template,
)
from providers.local.template_checks import check_template
from providers.types import Finding, Hyperparameters, Need, PreflightReport

_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")
_THERE = "the model's files are there"
_DOWNLOADED = "the model has been downloaded"
_BYTES_PER_NUMBER = 4
_STORED_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8}
_EXPERT_KEYS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_HUB_TIMEOUT_S = 5.0
# The device files of NVIDIA's and AMD's drivers, of Windows' driver for its Linux subsystem, and of
# NVIDIA's embedded boards: without any of them torch finds no CUDA device.
_DRIVERS = tuple(map(Path, ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg", "/dev/nvmap")))
_CARDS = Path("/proc/driver/nvidia/gpus")


def preflight_files(
    target: str, settings: Mapping[str, object], need: Need, hyperparameters: Hyperparameters
) -> PreflightReport:
    """Whether the model is there and fits into memory, and how large a tuned model will be."""
    try:
        options = LocalSettings.read(settings)
        source = locate_model(target, options)
        config = read_config(source)
        # Those of a folder of the user's were checked when it was found.
        if not source.local and config:
            check_config(config, source.name, options)
    except ProviderError as error:
        return PreflightReport((Finding("error", str(error)),))
    folder = find_folder(source)
    if folder is None:
        found = replace(_find_on_hub(source), check="model")
        return PreflightReport((found,), CAPABILITIES, None)
    weights = _count_weight_bytes(folder, source.gguf_file)
    findings = [
        Finding("ok", _THERE if source.local else _DOWNLOADED, check="model"),
        *_check_device(options),
        *_check_memory(weights, options),
        *_describe_date(folder, options),
        *_check_template(source, folder, options, need),
    ]
    if need.finetune:
        findings += _check_recipe(config, options, hyperparameters, need.examples)
    if need.deep and all(found.level != "error" for found in findings):
        findings += try_model(source, options, hyperparameters if need.finetune else None)
    else:
        findings += describe_kept_checks(source, options)
    size: int | None = 0
    if need.finetune and hyperparameters.method == "full":
        size = _estimate_full_bytes(folder, weights, source.gguf_file)
    elif need.finetune:
        size = _estimate_adapter_bytes(folder, hyperparameters)
    return PreflightReport(tuple(findings), CAPABILITIES, size)


def _find_on_hub(source: ModelSource) -> Finding:
    """Whether the Hugging Face hub has the model and gives it to this user."""
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        HfApi().model_info(source.name, revision=source.revision, timeout=_HUB_TIMEOUT_S)
    except GatedRepoError:
        return Finding(
            "error",
            "the model's owner has not given you access yet",
            f"ask at https://huggingface.co/{source.name}, then log in with `hf auth login`",
        )
    except RepositoryNotFoundError:
        return Finding(
            "error",
            f"the Hugging Face hub has no model {source.name!r} that you may see",
            "correct the name, or log in with `hf auth login`",
        )
    except (HfHubHTTPError, OSError, httpx2.HTTPError):
        return Finding(
            "warning",
            "the model is not on this machine, and the Hugging Face hub cannot be reached",
            "connect to the network before the run starts, or give the folder of a copy",
        )
    return Finding("ok", "the model is on the Hugging Face hub and will be downloaded")


def _check_recipe(
    config: Mapping[str, Any],
    options: LocalSettings,
    hyperparameters: Hyperparameters,
    examples: int,
) -> list[Finding]:
    texts = [
        *find_unsupported(hyperparameters),
        *find_training_faults(read_format(config), options, hyperparameters),
    ]
    if texts:
        return [
            Finding("error", f"cannot train like that: {text}", check="recipe") for text in texts
        ]
    text = describe_small_reach(hyperparameters, examples)
    return [Finding("warning", text, check="recipe")] if text else []


def _check_device(options: LocalSettings) -> list[Finding]:
    """An error if the requested device certainly does not exist."""
    kind, _, index = options.device.partition(":")
    there = True
    if kind == "mps":
        there = _is_apple_silicon()
    elif kind == "cuda" and platform.system() == "Linux":
        cards = list(_CARDS.iterdir()) if _CARDS.is_dir() else None
        there = any(map(Path.exists, _DRIVERS))
        there = there and (cards is None or not index or int(index) < len(cards))
    if there:
        return []
    text = f"[provider] device = {options.device!r} is not there on this machine"
    return [Finding("error", text, 'use "auto" or "cpu"', "device")]


def _count_weight_bytes(folder: Path, gguf_file: str | None) -> int:
    if gguf_file is not None:
        return (folder / gguf_file).stat().st_size
    for pattern in _WEIGHTS:
        sizes = [path.stat().st_size for path in folder.glob(pattern)]
        if sizes:
            return sum(sizes)
    return 0


def _check_memory(weights: int, options: LocalSettings) -> list[Finding]:
    """A warning if the weights alone are larger than the CPU's free memory."""
    if options.device not in ("auto", "cpu") or (options.device == "auto" and _has_accelerator()):
        return []
    # On an accelerator the weights lie in its memory, which only its driver knows.
    import psutil  # type: ignore[import-untyped, unused-ignore]

    free = psutil.virtual_memory().available
    if weights <= free:
        return []
    return [
        Finding(
            "warning",
            f"the weights take at least {weights / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory "
            "are free",
            "take a smaller model or a machine with more memory",
            "memory",
        )
    ]


def _check_template(
    source: ModelSource, folder: Path, options: LocalSettings, need: Need
) -> list[Finding]:
    """What the run's conversations and settings meet in the chat template."""
    try:
        text, tokens = read_template(source, folder), read_special_tokens(folder)
    except (ProviderError, OSError, ValueError):
        # Loading the model will report the error.
        return []
    return [] if text is None else check_template(text, tokens, options.template_arguments, need)


def _describe_date(folder: Path, options: LocalSettings) -> list[Finding]:
    """The date that the chat template writes instead of today's, if it writes any."""
    files = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
    texts = (path.read_text("utf-8", "replace") for f in files if (path := folder / f).is_file())
    if not any("strftime_now" in text for text in texts):
        return []
    text = f"the chat template writes a date, which is always {options.template_date}"
    return [Finding("ok", f"{text} ([provider] template_date)")]


def _is_apple_silicon() -> bool:
    return platform.system() == "Darwin" and platform.machine() == "arm64"


def _has_accelerator() -> bool:
    return _is_apple_silicon() or Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists()


def _estimate_full_bytes(folder: Path, weights: int, gguf_file: str | None) -> int:
    """Bytes of one fully tuned model: its weights have four bytes, whatever the base's have."""
    if gguf_file is not None:
        import gguf

        numbers = sum(int(one.n_elements) for one in gguf.GGUFReader(folder / gguf_file).tensors)
        return _BYTES_PER_NUMBER * numbers
    config = _read_config(folder) or {}
    stored = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    return _BYTES_PER_NUMBER * weights // _STORED_BYTES.get(stored, _BYTES_PER_NUMBER)


def _estimate_adapter_bytes(folder: Path, how: Hyperparameters) -> int | None:
    """Bytes of one adapter with low-rank factors of all linear layers; None if unknown."""
    shape = _read_shape(folder)
    if shape is None:
        return None
    hidden, inner, layers, keys = shape
    # The factors of a (rows, columns) matrix have rank * (rows + columns) numbers. A layer has
    # query and output, key and value, and three matrices between the hidden and inner widths.
    widths = 2 * (hidden + hidden) + 2 * (hidden + keys) + 3 * (hidden + inner)
    if how.lora_experts:
        config = _read_config(folder) or {}
        counts = (config.get(key) for key in _EXPERT_KEYS)
        each = int(config.get("moe_intermediate_size") or inner)
        widths += next((int(count) for count in counts if count), 0) * 3 * (hidden + each)
    return _BYTES_PER_NUMBER * how.lora_rank * widths * layers


def _read_config(folder: Path) -> dict[str, Any] | None:
    """The text model's part of config.json; None if it cannot be read."""
    try:
        config: Any = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return dict(config | config.get("text_config", {}))
    except (OSError, ValueError, RecursionError, TypeError, AttributeError):
        return None


def _read_shape(folder: Path) -> tuple[int, int, int, int] | None:
    """Hidden width, inner width, layers and key width; None if config.json lacks one of them."""
    config = _read_config(folder)
    if config is None:
        return None
    try:
        hidden = int(config["hidden_size"])
        heads = int(config["num_attention_heads"])
        keys = hidden * int(config.get("num_key_value_heads") or heads) // heads
        inner = int(config.get("intermediate_size") or 4 * hidden)
        return hidden, inner, int(config["num_hidden_layers"]), keys
    except (ValueError, KeyError, TypeError):
        return None
