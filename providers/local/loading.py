"""Loads a model and its tokenizer from a folder, a GGUF file or the hub, through transformers."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from providers.errors import InvalidSettings, ModelNotFound, OutOfMemory, ProviderError, Unsupported
from providers.local.architecture import TRUST_REMEDY, choose_auto_class, find_writer
from providers.local.attention import choose_attention
from providers.local.file_checks import try_template
from providers.local.gguf_header import read_gguf_header
from providers.local.hardware import is_out_of_memory
from providers.local.quantization import (
    check_quantization,
    keep_weights_unpacked,
    make_quantization_config,
    read_format,
)
from providers.local.settings import LocalSettings
from providers.local.shortage import advise_after_failure, require_room
from providers.local.source import ModelSource

_SHOWN = 3


def try_templates(template: str | dict[str, str] | None, name: str) -> None:
    """Try every template of a tokenizer, which may have several by name."""
    for each in template.values() if isinstance(template, dict) else [template]:
        if each:
            try_template(each, repr(name))


def load_tokenizer(source: ModelSource, settings: LocalSettings) -> Any:
    """The model's tokenizer."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(
        source.name, **_list_load_options(source, settings)
    )
    if not tokenizer.chat_template:
        tokenizer.chat_template = _read_processor_template(source)
    return tokenizer


def load_model(
    source: ModelSource, settings: LocalSettings, device: torch.device, dtype: torch.dtype
) -> Any:
    """The model that answers for the files at `source`, its weights of type `dtype`.

    It lies on `device`, or as `settings.device_map` says. Raises `InvalidSettings` if it cannot
    continue texts or a setting does not fit it, and `ModelNotFound` if weights are missing.
    """
    from transformers import AutoConfig

    options = _list_load_options(source, settings)
    whole: Any = AutoConfig.from_pretrained(source.name, **options)
    config = find_writer(whole)
    auto_class = choose_auto_class(config, source.name, settings.trust_remote_code)
    # `from_pretrained` of a GGUF file makes its own quantization config.
    stored = None if source.gguf_file else read_format(whole.to_dict())
    check_quantization(stored, source.gguf_file is not None, source.name, settings)
    quantization = make_quantization_config(
        stored, source.gguf_file is not None, settings.quantization, dtype
    )
    if quantization is not None:
        options["quantization_config"] = quantization
    # Given, it is not read a second time, which takes seconds for a GGUF file.
    if config is not whole or source.gguf_file:
        options["config"] = config
    packed = settings.quantization is not None or (
        stored is not None and not getattr(quantization, "dequantize", False)
    )
    if settings.device_map is not None or packed:
        # Packed weights cannot be moved afterwards.
        options["device_map"] = settings.device_map or {"": device}
        options["max_memory"] = settings.max_memory
        options["offload_folder"] = settings.offload_folder
    require_room(source, settings, device.type, dtype.itemsize)
    model_class = _find_class(auto_class, config, source, settings)
    model, report = auto_class.from_pretrained(
        source.name,
        dtype=dtype,
        attn_implementation=choose_attention(settings.attention, device, model_class, config),
        output_loading_info=True,
        **options,
    )
    _require_all_weights(report["missing_keys"], source)
    if getattr(quantization, "dequantize", False):
        # It would be saved under the names of the format that it was stored in.
        model._weight_conversions = []
    if "device_map" in options:
        keep_weights_unpacked(model)
        return model
    return model.to(device)


def build_layers(source: ModelSource, settings: LocalSettings) -> Any:
    """The model for the files at `source` without its weights, which stay on the disk: what fits
    its layers shows all the same."""
    from transformers import AutoConfig

    options = _list_load_options(source, settings)
    config = find_writer(AutoConfig.from_pretrained(source.name, **options))
    auto_class = choose_auto_class(config, source.name, settings.trust_remote_code)
    # Weights there have a shape and no memory, whatever the size of the model.
    with torch.device("meta"):
        return auto_class.from_config(config, trust_remote_code=settings.trust_remote_code)


def read_gguf_ends(source: ModelSource) -> frozenset[int]:
    """The tokens that a GGUF file states to end a text, a turn or a message; empty for others."""
    if source.gguf_file is None:
        return frozenset()
    from transformers.utils.hub import cached_file

    # The model has been loaded, so a file of the hub is on this disk.
    path = cached_file(
        source.name, source.gguf_file, revision=source.revision, local_files_only=True
    )
    return read_gguf_header(Path(str(path))).ends


def find_input_device(model: Any) -> torch.device:
    """Where a model takes its tokens: the device of its embeddings."""
    embeddings = model.get_input_embeddings()
    # Of a part that waits elsewhere for its turn, accelerate's hook knows where it computes.
    hook = getattr(embeddings, "_hf_hook", None)
    if (device := getattr(hook, "execution_device", None)) is not None:
        return torch.device(device)
    found: torch.device = next(embeddings.parameters()).device
    return found


def require_weights_in_place(model: Any, source: ModelSource) -> None:
    """Raise `Unsupported` if parts of the model wait elsewhere: they have no gradient there."""
    if any(weight.device.type == "meta" for weight in model.parameters()):
        raise Unsupported(
            f"parts of the model {source.name!r} wait on the disk or in memory for their turn "
            "(device_map), so that it answers, but cannot be trained or answer with adapters; set "
            "quantization = 'nf4', raise max_memory, or use more or larger graphics cards"
        )


def _find_class(auto_class: Any, config: Any, source: ModelSource, settings: LocalSettings) -> Any:
    """The class of the model that `auto_class` will make of `config`."""
    code = (getattr(config, "auto_map", None) or {}).get(auto_class.__name__)
    if code is None or not settings.trust_remote_code:
        found: Any = auto_class._model_mapping[type(config)]
        return found[0] if isinstance(found, tuple) else found
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    return get_class_from_dynamic_module(code, source.name, revision=source.revision)


def _require_all_weights(missing: set[str], source: ModelSource) -> None:
    """Refuse files that lack weights: transformers would draw them at random."""
    if missing:
        names = ", ".join(sorted(missing)[:_SHOWN]) + (", …" if len(missing) > _SHOWN else "")
        raise ModelNotFound(
            f"the files of the model {source.name!r} lack {len(missing)} of its weights ({names}), "
            "which would be random; it is a part of a model or one for another task: take a whole "
            "model that continues texts, or fetch it again"
        )


def _read_processor_template(source: ModelSource) -> str | None:
    """The template that older models of images and texts keep for their processor."""
    from huggingface_hub import try_to_load_from_cache

    name = "chat_template.json"
    found: Any = (
        Path(source.name) / name
        if source.local
        else try_to_load_from_cache(source.name, name, revision=source.revision)
    )
    if not isinstance(found, str | Path) or not Path(found).is_file():
        return None
    template = json.loads(Path(found).read_text(encoding="utf-8")).get("chat_template")
    return template if isinstance(template, str) else None


def _list_load_options(source: ModelSource, settings: LocalSettings) -> dict[str, Any]:
    options = {
        "gguf_file": source.gguf_file,
        "revision": source.revision,
        "local_files_only": source.local or None,
        # Never None: transformers would ask the user, and wait.
        "trust_remote_code": settings.trust_remote_code,
    }
    return {key: value for key, value in options.items() if value is not None}


@contextlib.contextmanager
def translate_errors(
    source: ModelSource, settings: LocalSettings, dtype: torch.dtype
) -> Iterator[None]:
    """Raise what a loader raises as an error that names the model."""
    try:
        yield
    except ProviderError:
        raise
    # Loaders raise all kinds of errors, tokenizers even a bare Exception.
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfMemory(
                f"the model {source.name!r} does not fit into memory: {error}; "
                + advise_after_failure(source, settings, dtype.itemsize)
            ) from error
        if "trust_remote_code" in str(error):
            raise InvalidSettings(
                f"the model {source.name!r} needs Python code that it brings along, which would "
                f"run on this machine; {TRUST_REMEDY}"
            ) from error
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
    _hide_gguf_bar()
    bars = transformers_logging.is_progress_bar_enabled()
    logging.captureWarnings(True)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # PEFT imports it where it is installed, and it tells of kernels that it lacks.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        logging.captureWarnings(False)
        if bars:
            transformers_logging.enable_progress_bar()


def _hide_gguf_bar() -> None:
    """Keep the reader of GGUF files from drawing its progress bar, which has no switch."""
    from transformers import modeling_gguf_pytorch_utils as untyped

    reader: Any = untyped
    reader.tqdm = lambda tensors, **described: tensors
