"""How a model's own generation_config.json draws answers; loads no torch, no model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from providers.errors import InvalidSettings, ModelNotFound
from providers.local.source import ModelSource, read_object

_FILE = "generation_config.json"
_REMEDY = "write the values that its authors recommend into [sampling]"
_DEFAULTS: Mapping[str, float] = MappingProxyType(
    {"temperature": 1.0, "top_p": 1.0, "top_k": 50, "min_p": 0.0, "repetition_penalty": 1.0}
)
"""What transformers takes where the file says nothing."""


def read_sampling(source: ModelSource) -> dict[str, object]:
    """The settings that `generate(do_sample=True)` of transformers would take, by name, unchecked.

    `do_sample` in the file only says whether `generate` samples by itself. A file that is not on
    this disk is fetched. Raises `InvalidSettings` if the model has none, and `ModelNotFound` if it
    cannot be read.
    """
    if source.gguf_file is not None:
        raise _make_missing(f"{source.gguf_file!r}, as a GGUF file,")
    stated = read_object(_find_file(source))
    return {
        name: default if (value := stated.get(name)) is None else value
        for name, default in _DEFAULTS.items()
    }


def _find_file(source: ModelSource) -> Path:
    if not source.local:
        return _fetch(source)
    file = Path(source.name) / _FILE
    if not file.is_file():
        raise _make_missing(f"the model folder {source.name!r}")
    return file


def _fetch(source: ModelSource) -> Path:
    import httpx2
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    try:
        return Path(hf_hub_download(source.name, _FILE, revision=source.revision))
    except RemoteEntryNotFoundError:
        raise _make_missing(f"the model {source.name!r}") from None
    except (OSError, httpx2.HTTPError) as error:
        raise ModelNotFound(
            f"{_FILE} of {source.name!r} cannot be fetched from the Hugging Face hub ({error}); "
            f"connect to the network, or {_REMEDY}"
        ) from error


def _make_missing(model: str) -> InvalidSettings:
    return InvalidSettings(f"{model} has no {_FILE}; {_REMEDY}")
