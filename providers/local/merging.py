"""Whole models of tuned ones: an adapter merged into its base, or a full fine-tune as it is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from providers.artifact import MANIFEST
from providers.errors import Unsupported
from providers.local.hardware import choose_dtype
from providers.local.loading import (
    load_model,
    load_tokenizer,
    silence_transformers,
    translate_errors,
)
from providers.local.lora import is_adapter
from providers.local.lora_targets import keep_names
from providers.local.quantization import read_format
from providers.local.settings import LocalSettings
from providers.local.source import ModelSource, read_config


def write_merged(
    source: ModelSource, settings: LocalSettings, artifact: Path, folder: Path
) -> None:
    """Write the whole model that the tuned model in `artifact` is into `folder`, which exists.

    An adapter is merged into the base as it was published, in the number type that the run computes
    in. Weights are never in 4 bits, as they may be in the run: such a model answers a little
    otherwise. Raises `Unsupported` for a base that is stored packed, and the loader's errors.

        write_merged(locate_model("./base", settings), settings, Path("models/a1"), Path("merged"))
    """
    if not is_adapter(artifact):
        _copy_whole(artifact, folder)
        return
    if source.gguf_file is not None or read_format(read_config(source)) is not None:
        raise Unsupported(
            f"the base model {source.name!r} is stored in a packed format, into which no adapter "
            "is merged; export the adapters (--model adapters), or run on the unpacked model"
        )
    # On the CPU, where a model fits that a graphics card holds in 4 bits only.
    plain = _unpack(settings)
    device = torch.device("cpu")
    dtype = choose_dtype(settings, device)
    with silence_transformers(), translate_errors(source, plain, dtype):
        tokenizer: Any = load_tokenizer(source, plain)
        merged = _merge(load_model(source, plain, device, dtype), artifact)
        merged.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _unpack(settings: LocalSettings) -> LocalSettings:
    """The same settings for unpacked weights on the CPU."""
    return settings.model_copy(
        update={"quantization": None, "device": "cpu", "device_map": None, "max_memory": None}
    )


def _merge(model: Any, adapter: Path) -> Any:
    from peft import PeftModel

    with keep_names(model):
        tuned = PeftModel.from_pretrained(model, str(adapter))
    # Safe: weights that are not finite are an error here, not an answer later.
    return tuned.merge_and_unload(safe_merge=True)


def _copy_whole(artifact: Path, folder: Path) -> None:
    for path in artifact.iterdir():
        if path.name != MANIFEST and path.is_file():
            shutil.copy2(path, folder / path.name)
