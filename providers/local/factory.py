"""What the registry calls for `local:` addresses. Importing and checking load neither torch nor a
model.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from providers import extras
from providers.base import Provider, ProviderFactory, Settings
from providers.embedded import MODEL_DIR
from providers.errors import InvalidSettings, ModelNotFound
from providers.local import gguf_header
from providers.local.settings import LocalSettings
from providers.local.trial import try_template
from providers.types import Hyperparameters, Need, PreflightReport

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_HOW_MUCH = ("max_batch_size", "max_batch_tokens", "full_models")
_TEMPLATE_REMEDY = (
    "use an instruct model, or add its template as chat_template.jinja to the model folder"
)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a base model's files are: a folder on disk or a repository on the hub.

    `name` is the folder's path or the hub name, `gguf_file` the one file in it that holds weights
    and tokenizer, if it is a GGUF model.
    """

    name: str
    local: bool
    gguf_file: str | None = None
    revision: str | None = None


def check(target: str, settings: Settings) -> None:
    """Raise `InvalidSettings` or `ModelNotFound` for what is seen to be wrong without loading."""
    locate(target, LocalSettings.read(settings))


def output_settings(settings: Settings) -> Settings:
    """The settings that decide what is answered; how much is computed at a time does not, nor which
    of several alike devices computes it.
    """
    found = {name: value for name, value in settings.items() if name not in _HOW_MUCH}
    if "device" in found:
        found["device"] = str(found["device"]).partition(":")[0]
    return found


def connect(target: str, settings: Settings, workdir: Path) -> Provider:
    """Open the model at `target`; its weights are read at the first request, in the background."""
    return open_model(f"local:{target}", target, settings, workdir)


def open_model(address: str, target: str, settings: Settings, workdir: Path) -> Provider:
    """Like `connect`, for another scheme whose models are local ones; `address` is how it names
    them.
    """
    from providers.local.provider import LocalProvider

    options = LocalSettings.read(settings)
    return LocalProvider(address, locate(target, options), options, workdir)


def preflight(
    target: str, settings: Settings, need: Need, hyperparameters: Hyperparameters
) -> PreflightReport:
    """What the files say about the model at `target`; loads nothing."""
    from providers.local.preflight import preflight_files

    return preflight_files(target, settings, need, hyperparameters)


def locate(target: str, settings: LocalSettings) -> Source:
    """The model's files. A local one is checked for what loading and chatting need."""
    path = Path(target).expanduser()
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelNotFound(
                f"{target!r} is a file but not a .gguf one; give the model's folder instead"
            )
        _check_gguf(path)
        return Source(str(path.parent), True, path.name)
    if path.is_dir():
        if settings.gguf_file is not None:
            return locate(str(path / settings.gguf_file), settings)
        _check_folder(path)
        return Source(str(path), True)
    if _looks_like_path(target) or not _HUB_NAME.fullmatch(target):
        raise ModelNotFound(
            f"there is no model folder or .gguf file at {target!r}; check the path, or use "
            f"'local:ORGANISATION/NAME' for a model of the Hugging Face hub"
        )
    return Source(target, False, settings.gguf_file, settings.revision)


def _looks_like_path(target: str) -> bool:
    return (
        target == ""
        or target.startswith((".", "~", os.sep))
        or target.endswith((".gguf", os.sep))
        or "\\" in target
        or target.count("/") > 1
        or ("/" in target and Path(target).parent.is_dir())
    )


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        files = sorted(found.name for found in folder.glob("*.gguf"))
        remedy = (
            f"set gguf_file = {files[0]!r} in [provider]"
            if files
            else "a model folder is what save_pretrained writes"
        )
        raise ModelNotFound(
            f"{str(folder)!r} has no config.json, so it is no model folder; {remedy}"
        )
    tokenizers = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "vocab.txt")
    if not any((folder / name).is_file() for name in tokenizers):
        raise ModelNotFound(
            f"{str(folder)!r} has no tokenizer ({', '.join(tokenizers[:3])}, …); "
            f"save the model's tokenizer into the folder"
        )
    _check_size(folder)
    if not (templates := _templates(folder)):
        raise InvalidSettings(
            f"the model in {str(folder)!r} has no chat template, so it cannot hold a conversation; "
            f"{_TEMPLATE_REMEDY}"
        )
    if folder.resolve() != MODEL_DIR.resolve():
        for template in templates:
            try_template(template, repr(str(folder)))


def _check_size(folder: Path) -> None:
    """A model is not built that its own weights cannot fill."""
    config = _object(folder / "config.json")
    nested = config.get("text_config")
    shape = nested if isinstance(nested, dict) else config
    layers, width, words = (
        value if isinstance(value := shape.get(name), int) else 0
        for name in ("num_hidden_layers", "hidden_size", "vocab_size")
    )
    weights = sum(
        file.stat().st_size for kind in ("*.safetensors", "*.bin") for file in folder.glob(kind)
    )
    # Every layer has square matrices; no format has more than eight parameters in a byte.
    if weights and max(layers * width * width, words * width) > 8 * weights:
        raise ModelNotFound(
            f"{str(folder / 'config.json')!r} describes {layers:,} layers of width {width:,} and "
            f"{words:,} tokens, more than the weights beside it hold ({weights:,} bytes); save or "
            "fetch the model again"
        )


def _templates(folder: Path) -> list[str]:
    """Every chat template of a model folder."""
    found: list[object] = []
    if (file := folder / "chat_template.jinja").is_file():
        found.append(file.read_text(encoding="utf-8", errors="replace"))
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (file := folder / name).is_file():
            given = _object(file).get("chat_template")
            several = given if isinstance(given, list) else [given]
            found += [each.get("template") if isinstance(each, dict) else each for each in several]
    return [template for template in found if isinstance(template, str) and template]


def _object(file: Path) -> dict[str, Any]:
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
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError:
        raise InvalidSettings(
            f"reading {str(path)!r} needs the package gguf, which is not installed; "
            f"install it with `{extras.install_command('gguf')}`"
        ) from None
    try:
        gguf_header.check(path)
        fields = GGUFReader(path).fields
    except (ValueError, OSError, IndexError, KeyError, OverflowError, MemoryError) as error:
        raise ModelNotFound(
            f"{str(path)!r} is not a readable GGUF file ({error}); fetch it again"
        ) from None
    template = fields.get("tokenizer.chat_template")
    if template is None:
        raise InvalidSettings(
            f"{str(path)!r} carries no chat template (tokenizer.chat_template); "
            f"use an instruct model"
        )
    try_template(str(template.contents()), repr(str(path)))


FACTORY = ProviderFactory(check, connect, output_settings=output_settings, preflight=preflight)
