"""Where a base model's files are and whether they are complete; loads no torch, no model."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from providers import extras
from providers.embedded import MODEL_DIR
from providers.errors import InvalidSettings, ModelNotFound
from providers.local.architecture import find_text_part, refuse_foreign_code, refuse_other_tasks
from providers.local.file_checks import try_template
from providers.local.gguf_header import read_gguf_header
from providers.local.quantization import check_quantization, read_format
from providers.local.settings import LocalSettings

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_TEMPLATE_REMEDY = (
    "use an instruct model, or add its template as chat_template.jinja to the model folder"
)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a base model's files are: a folder on disk or a repository on the hub.

    `name` is the folder's path or the hub name. Of a GGUF model, `gguf_file` is the file in it that
    holds the weights and the tokenizer.
    """

    name: str
    local: bool
    gguf_file: str | None = None
    revision: str | None = None


def locate_model(target: str, settings: LocalSettings) -> ModelSource:
    """Where the model's files are; those on this disk are checked for what loading needs.

    Raises `ModelNotFound` if there is no complete model, and `InvalidSettings` if it has no chat
    template, or one that does not end.

    ```python
    locate_model("./my-model", LocalSettings())  # ModelSource("my-model", local=True)
    locate_model("Qwen/Qwen3-0.6B", LocalSettings())  # on the hub, not looked at
    ```
    """
    path = Path(target).expanduser()
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelNotFound(
                f"{target!r} is a file but not a .gguf one; give the model's folder instead"
            )
        _check_gguf(path)
        check_quantization(None, True, target, settings)
        return ModelSource(str(path.parent), True, path.name)
    if path.is_dir():
        if settings.gguf_file is not None:
            return locate_model(str(path / settings.gguf_file), settings)
        _check_folder(path, settings)
        return ModelSource(str(path), True)
    if _looks_like_path(target) or not _HUB_NAME.fullmatch(target):
        raise ModelNotFound(
            f"there is no model folder or .gguf file at {target!r}; check the path, or use "
            f"'local:ORGANISATION/NAME' for a model of the Hugging Face hub"
        )
    return ModelSource(target, False, settings.gguf_file, settings.revision)


def is_built_in(source: ModelSource) -> bool:
    """Whether the model is the one that ships with this package."""
    return source.local and Path(source.name).resolve() == MODEL_DIR.resolve()


def find_folder(source: ModelSource) -> Path | None:
    """The folder of the model's files on this disk; None if they must be downloaded."""
    if source.local:
        return Path(source.name)
    from huggingface_hub import try_to_load_from_cache

    # One file stands for all: a download that was cut off is continued when the model is loaded.
    probe = source.gguf_file or "config.json"
    cached = try_to_load_from_cache(source.name, probe, revision=source.revision)
    return Path(cached).parent if isinstance(cached, str) else None


def read_config(source: ModelSource) -> dict[str, Any]:
    """What config.json says of the model; {} for a GGUF file, and if it is not on this disk."""
    folder = find_folder(source)
    if source.gguf_file is not None or folder is None:
        return {}
    return read_object(folder / "config.json")


def check_config(config: dict[str, Any], name: str, settings: LocalSettings) -> None:
    """Raise `InvalidSettings` if the model of a config.json cannot be used with these settings."""
    refuse_other_tasks(config, name)
    refuse_foreign_code(config, name, settings.trust_remote_code)
    check_quantization(read_format(config), False, name, settings)


def _looks_like_path(target: str) -> bool:
    """Whether the user means a path: a hub name such as "Qwen/Qwen3-0.6B" has one slash at most."""
    return (
        target == ""
        or target.startswith((".", "~", os.sep))
        or target.endswith((".gguf", os.sep))
        or "\\" in target
        or target.count("/") > 1
        or ("/" in target and Path(target).parent.is_dir())
    )


def _check_folder(folder: Path, settings: LocalSettings) -> None:
    if not (folder / "config.json").is_file():
        files = sorted(found.name for found in folder.glob("*.gguf"))
        remedy = (
            f"set gguf_file = {files[0]!r} in [provider]"
            if files
            else "a model folder is what save_pretrained writes"
        )
        raise ModelNotFound(
            f"{str(folder)!r} has no config.json, so it is not a model folder; {remedy}"
        )
    # transformers finds a tokenizer by any of these.
    tokenizers = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "vocab.txt")
    if not any((folder / name).is_file() for name in tokenizers):
        raise ModelNotFound(
            f"{str(folder)!r} has no tokenizer ({', '.join(tokenizers[:3])}, …); "
            f"save the model's tokenizer into the folder"
        )
    config = read_object(folder / "config.json")
    check_config(config, str(folder), settings)
    _check_size(folder, config)
    if not (templates := _read_templates(folder)):
        raise InvalidSettings(
            f"the model in {str(folder)!r} has no chat template, so it cannot hold a conversation; "
            f"{_TEMPLATE_REMEDY}"
        )
    # The built-in model's template is our own, and a trial takes a process.
    if folder.resolve() != MODEL_DIR.resolve():
        for template in templates:
            try_template(template, repr(str(folder)))


def _check_size(folder: Path, config: dict[str, Any]) -> None:
    """Refuse a config that describes a larger model than the weights beside it can fill.

    transformers would allocate what the config asks for before it reads the weights.
    """
    shape = find_text_part(config)
    layers, width, words = (
        value if isinstance(value := shape.get(name), int) else 0
        for name in ("num_hidden_layers", "hidden_size", "vocab_size")
    )
    weights = sum(
        file.stat().st_size for kind in ("*.safetensors", "*.bin") for file in folder.glob(kind)
    )
    # A lower bound: every layer has a square matrix, and no format packs more than eight parameters
    # into a byte.
    if weights and max(layers * width * width, words * width) > 8 * weights:
        raise ModelNotFound(
            f"{str(folder / 'config.json')!r} describes {layers:,} layers of width {width:,} and "
            f"{words:,} tokens, more than the weights beside it hold ({weights:,} bytes); save or "
            "fetch the model again"
        )


def read_template(source: ModelSource, folder: Path) -> str | None:
    """The chat template of the files in `folder`, if it can be read."""
    if source.gguf_file is None:
        return next(iter(_read_templates(folder)), None)
    return read_gguf_header(folder / source.gguf_file).template


def read_context(source: ModelSource, folder: Path) -> int | None:
    """How many tokens prompt and answer may have together, if the files in `folder` say so."""
    if source.gguf_file is not None:
        return read_gguf_header(folder / source.gguf_file).context
    text = find_text_part(read_config(source))
    found = (text.get(name) for name in ("max_position_embeddings", "n_positions", "n_ctx"))
    return next((value for value in found if isinstance(value, int) and value > 0), None)


def read_special_tokens(folder: Path) -> dict[str, str]:
    """The special tokens that a chat template may name, "" for those that the files do not have."""
    found = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), "")
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (file := folder / name).is_file():
            given = read_object(file)
            for key in found:
                token = given.get(key)
                token = token.get("content") if isinstance(token, dict) else token
                found[key] = token if isinstance(token, str) else found[key]
    return found


def _read_templates(folder: Path) -> list[str]:
    """Every chat template of a model folder, the default one first, if a tokenizer has several."""
    found: list[object] = []
    if (file := folder / "chat_template.jinja").is_file():
        found.append(file.read_text(encoding="utf-8", errors="replace"))
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (file := folder / name).is_file():
            given = read_object(file).get("chat_template")
            several = given if isinstance(given, list) else [given]
            several.sort(key=lambda each: isinstance(each, dict) and each.get("name") != "default")
            found += [each.get("template") if isinstance(each, dict) else each for each in several]
    return [template for template in found if isinstance(template, str) and template]


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a model's file; raises `ModelNotFound` if there is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        reason = "too deeply nested" if isinstance(error, RecursionError) else error
        raise ModelNotFound(
            f"{str(file)!r} is not valid JSON ({reason}); save the model or its tokenizer again"
        ) from None
    if not isinstance(content, dict):
        raise ModelNotFound(
            f"{str(file)!r} is not a JSON object; save the model or its tokenizer again"
        )
    return content


def _check_gguf(path: Path) -> None:
    if extras.find_missing(extras.PACKAGES["gguf"]):
        raise InvalidSettings(
            f"reading {str(path)!r} needs the package gguf, which is not installed; "
            f"install it with `{extras.install_command('gguf')}`"
        )
    try:
        header = read_gguf_header(path)
    except (ValueError, OSError, OverflowError, MemoryError) as error:
        raise ModelNotFound(
            f"{str(path)!r} is not a readable GGUF file ({error}); fetch it again"
        ) from None
    # A GGUF file holds its template itself; there is no file beside it to fall back on.
    if header.template is None:
        raise InvalidSettings(
            f"{str(path)!r} carries no chat template (tokenizer.chat_template); "
            f"use an instruct model"
        )
    try_template(header.template, repr(str(path)))
