"""From an address to a provider.

    embedded:                     the built-in base model, trained and run in this process
    local:PATH_OR_HUB_NAME        any causal language model with a chat template, or a .gguf file
    replay:RUN_FOLDER             answers from the stored turns of an earlier run
    scripted:FILE                 answers from a script, for tests and dry runs
    openai:MODEL                  OpenAI; openai+URL:MODEL is any server that speaks its API

A third party adds a scheme with an entry point in the group ``society.providers`` whose object is
a `ProviderFactory`, or a module that has its two functions.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import cast

from providers import extras
from providers.base import Provider, ProviderFactory
from providers.errors import InvalidSettings

ENTRY_POINT_GROUP = "society.providers"

_BUILT_IN = {
    "embedded": "providers.embedded.factory",
    "local": "providers.local.factory",
    "scripted": "providers.scripted",
    "replay": "providers.replay",
    "openai": "providers.openai.factory",
}
_ADDRESS = re.compile(r"(?P<scheme>[a-z][a-z0-9_]*)(?P<target>[:+].*)", re.DOTALL)


def check(address: str, settings: Mapping[str, object]) -> None:
    """Raise `InvalidSettings` or `ModelNotFound` for a wrong address, loading no model."""
    factory, target = _resolve(address)
    with extras.named():
        factory.check(target, settings)


def connect(address: str, settings: Mapping[str, object], workdir: Path) -> Provider:
    """Open the provider behind `address`; see the module's list of addresses."""
    factory, target = _resolve(address)
    with extras.named():
        return factory.connect(target, settings, workdir)


def deciding(address: str, settings: Mapping[str, object]) -> Mapping[str, object]:
    """The part of a provider's settings that decides what it answers, which a run must keep.

    All of them, unless the provider has a function `deciding` that tells.
    """
    factory, _ = _resolve(address)
    tell = getattr(factory, "deciding", None)
    return settings if tell is None else cast(Mapping[str, object], tell(settings))


def has_batches(address: str) -> bool:
    """Whether the provider can answer in batches; see `providers.batching.Batching`."""
    factory, _ = _resolve(address)
    return bool(getattr(factory, "HAS_BATCHES", False))


def scores(address: str, settings: Mapping[str, object]) -> bool:
    """Whether the provider tells the likelihood of a given text, as far as its settings show.

    It is taken to, unless it has a function `scores` that tells.
    """
    factory, _ = _resolve(address)
    tell = getattr(factory, "scores", None)
    return True if tell is None else bool(tell(settings))


def schemes() -> tuple[str, ...]:
    """Every scheme that can be used here, the built-in ones first."""
    installed = (point.name for point in entry_points(group=ENTRY_POINT_GROUP))
    return tuple(dict.fromkeys((*_BUILT_IN, *installed)))


def _resolve(address: str) -> tuple[ProviderFactory, str]:
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise InvalidSettings(
            f"model address {address!r} has no scheme; write it as SCHEME:MODEL, for example "
            f"'embedded:' or 'local:./my-model' (known schemes: {', '.join(schemes())})"
        )
    scheme, target = match["scheme"], match["target"].removeprefix(":")
    if scheme in _BUILT_IN:
        with extras.named():
            return cast(ProviderFactory, importlib.import_module(_BUILT_IN[scheme])), target
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name == scheme:
            return cast(ProviderFactory, point.load()), target
    raise InvalidSettings(
        f"model address {address!r} has the unknown scheme {scheme!r}; "
        f"known schemes: {', '.join(schemes())}"
    )
