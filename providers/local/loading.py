"""Loads a model and its tokenizer from a folder, a GGUF file or the hub, through transformers."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch

from providers.errors import ModelNotFound, OutOfMemory
from providers.local.file_checks import try_template
from providers.local.settings import LocalSettings
from providers.local.source import ModelSource


def try_templates(template: str | dict[str, str] | None, name: str) -> None:
    """Try every template of a tokenizer, which may have several by name."""
    for each in template.values() if isinstance(template, dict) else [template]:
        if each:
            try_template(each, repr(name))


def load_tokenizer(source: ModelSource) -> Any:
    """The model's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(source.name, **_list_load_options(source))


def load_model(
    source: ModelSource, settings: LocalSettings, device: torch.device, dtype: torch.dtype
) -> Any:
    """The causal model on `device`, its weights of type `dtype`."""
    from transformers import AutoModelForCausalLM, GgufConfig

    attention = settings.attention
    if attention == "auto":
        attention = "eager" if device.type == "cpu" else "sdpa"
    extra: dict[str, Any] = {"attn_implementation": attention}
    if source.gguf_file is not None:
        extra["quantization_config"] = GgufConfig(dequantize=True)
    model: Any = AutoModelForCausalLM.from_pretrained(
        source.name, dtype=dtype, **_list_load_options(source), **extra
    )
    return model.to(device)


def read_gguf_ends(source: ModelSource) -> frozenset[int]:
    """The tokens that a GGUF file states to end a text, a turn or a message; empty for others."""
    if source.gguf_file is None:
        return frozenset()
    from gguf import GGUFReader, Keys
    from transformers.utils.hub import cached_file

    # The model has been loaded, so a file of the hub is on this disk.
    path = cached_file(
        source.name, source.gguf_file, revision=source.revision, local_files_only=True
    )
    fields = GGUFReader(str(path)).fields
    keys = (Keys.Tokenizer.EOS_ID, Keys.Tokenizer.EOT_ID, Keys.Tokenizer.EOM_ID)
    return frozenset(int(fields[key].contents()) for key in keys if key in fields)


def _list_load_options(source: ModelSource) -> dict[str, Any]:
    options = {
        "gguf_file": source.gguf_file,
        "revision": source.revision,
        "local_files_only": source.local or None,
    }
    return {key: value for key, value in options.items() if value is not None}


@contextlib.contextmanager
def translate_errors(source: ModelSource) -> Iterator[None]:
    """Raise what a loader raises as an error that names the model."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(f"the model {source.name!r} does not fit into memory: {error}") from error
    # Loaders raise all kinds of errors, tokenizers even a bare Exception.
    except Exception as error:
        raise ModelNotFound(f"the model {source.name!r} cannot be loaded: {error}") from error


@contextlib.contextmanager
def silence_transformers() -> Iterator[None]:
    """Keep transformers from printing progress bars and advice over the run's own display.

    ```python
    with silence_transformers():
        tokenizer = AutoTokenizer.from_pretrained("./my-model")
    ```
    """
    from transformers.utils import logging as untyped

    transformers_logging: Any = untyped
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    logging.captureWarnings(True)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        logging.captureWarnings(False)
        if bars:
            transformers_logging.enable_progress_bar()
