"""What can be told of a local model from its files: loads neither torch nor a model.

Sizes are estimates from the files and from `config.json`, for a warning in time and no more.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from providers.errors import ProviderError
from providers.local.factory import Source, locate
from providers.local.settings import CAPABILITIES, LocalSettings, unsupported
from providers.types import Finding, Hyperparameters, Need, PreflightReport

_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")
_BYTES_PER_FACTOR = 4
_HUB_TIMEOUT_S = 5.0
# Of NVIDIA's and AMD's drivers, of Windows' below Linux, and of NVIDIA's boards.
_DRIVERS = tuple(map(Path, ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg", "/dev/nvmap")))
_CARDS = Path("/proc/driver/nvidia/gpus")


def preflight_files(
    target: str, settings: Mapping[str, object], need: Need, hyperparameters: Hyperparameters
) -> PreflightReport:
    """Whether the model is there and fits into memory, and how large what it learns will be."""
    try:
        options = LocalSettings.read(settings)
        source = locate(target, options)
    except ProviderError as error:
        return PreflightReport((Finding("error", str(error)),))
    folder, found = _folder(source)
    found = replace(found, check="model")
    if folder is None:
        return PreflightReport((found,), CAPABILITIES, None)
    weights = _weight_bytes(folder, source.gguf_file)
    findings = [found, *_device(options), *_memory(weights, options), *_date(folder, options)]
    if need.finetune:
        findings += _recipe(hyperparameters)
    size = _artifact_bytes(folder, weights, hyperparameters) if need.finetune else 0
    return PreflightReport(tuple(findings), CAPABILITIES, size)


def _folder(source: Source) -> tuple[Path | None, Finding]:
    """Where the model's files are on this disk, None while they are not."""
    if source.local:
        return Path(source.name), Finding("ok", "the model's files are there")
    from huggingface_hub import try_to_load_from_cache

    probe = source.gguf_file or "config.json"
    cached = try_to_load_from_cache(source.name, probe, revision=source.revision)
    if isinstance(cached, str):
        return Path(cached).parent, Finding("ok", "the model has been downloaded")
    return None, _on_the_hub(source)


def _on_the_hub(source: Source) -> Finding:
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        HfApi().model_info(source.name, revision=source.revision, timeout=_HUB_TIMEOUT_S)
    except GatedRepoError:
        return Finding(
            "error",
            "the model's owner has not let you in yet",
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


def _recipe(hyperparameters: Hyperparameters) -> list[Finding]:
    texts = unsupported(hyperparameters)
    return [Finding("error", f"cannot train like that: {text}", check="recipe") for text in texts]


def _device(options: LocalSettings) -> list[Finding]:
    """An error where the device that is asked for is surely not there."""
    kind, _, index = options.device.partition(":")
    there = True
    if kind == "mps":
        there = _apple()
    elif kind == "cuda" and platform.system() == "Linux":
        cards = list(_CARDS.iterdir()) if _CARDS.is_dir() else None
        there = any(map(Path.exists, _DRIVERS))
        there = there and (cards is None or not index or int(index) < len(cards))
    if there:
        return []
    text = f"[provider] device = {options.device!r} is not there on this machine"
    return [Finding("error", text, 'use "auto" or "cpu"', "device")]


def _weight_bytes(folder: Path, gguf_file: str | None) -> int:
    if gguf_file is not None:
        return (folder / gguf_file).stat().st_size
    for pattern in _WEIGHTS:
        sizes = [path.stat().st_size for path in folder.glob(pattern)]
        if sizes:
            return sum(sizes)
    return 0


def _memory(weights: int, options: LocalSettings) -> list[Finding]:
    """A warning where the weights alone are larger than the memory; only the CPU's is looked at."""
    if options.device not in ("auto", "cpu") or (options.device == "auto" and _accelerator()):
        return []
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


def _date(folder: Path, options: LocalSettings) -> list[Finding]:
    """Which day a chat template writes that asks for today's."""
    files = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
    texts = (path.read_text("utf-8", "replace") for f in files if (path := folder / f).is_file())
    if not any("strftime_now" in text for text in texts):
        return []
    text = f"the chat template writes a date, which is always {options.template_date} here"
    return [Finding("ok", f"{text} ([provider] template_date)")]


def _apple() -> bool:
    return platform.system() == "Darwin" and platform.machine() == "arm64"


def _accelerator() -> bool:
    return _apple() or Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists()


def _artifact_bytes(folder: Path, weights: int, how: Hyperparameters) -> int | None:
    """Bytes of one tuned model: the whole weights, or the low-rank factors of all linear layers."""
    if how.method == "full":
        return weights
    shape = _shape(folder)
    if shape is None:
        return None
    hidden, inner, layers, keys = shape
    # Query and output, key and value, and three matrices between the hidden and the inner width.
    ends = 2 * (hidden + hidden) + 2 * (hidden + keys) + 3 * (hidden + inner)
    return _BYTES_PER_FACTOR * how.lora_rank * ends * layers


def _shape(folder: Path) -> tuple[int, int, int, int] | None:
    try:
        config: Any = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = config.get("text_config", config)
        hidden = int(config["hidden_size"])
        heads = int(config["num_attention_heads"])
        keys = hidden * int(config.get("num_key_value_heads") or heads) // heads
        inner = int(config.get("intermediate_size") or 4 * hidden)
        return hidden, inner, int(config["num_hidden_layers"]), keys
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None
