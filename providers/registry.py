"""From an address to a provider.

    embedded:                     the built-in base model, trained and run in this process
    local:PATH_OR_HUB_NAME        any causal language model with a chat template, or a .gguf file
    replay:RUN_FOLDER             answers from the stored turns of an earlier run
    scripted:FILE                 answers from a script, for tests and dry runs
    openai:MODEL                  OpenAI; openai+URL:MODEL is any server that speaks its API
    bedrock:MODEL                 a model or an inference profile at Amazon Bedrock
    tinker:MODEL                  Thinking Machines; tinker+URL:MODEL is any server of Tinker's wire
    gemini:MODEL                  Gemini on Vertex AI, or at the Gemini Developer API for chat

Example: `registry.connect("openai:gpt-4.1-mini", {}, Path("runs/a/models"))`.

A third party adds a scheme with an entry point in the group ``society.providers`` whose object is
a `ProviderFactory`, or a module that has the functions `check` and `connect`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from providers import extras
from providers.base import (
    BaseOrigin,
    BaseWeights,
    FileFacts,
    PricedModel,
    Provider,
    ProviderFactory,
    ProviderInfo,
    Settings,
)
from providers.errors import InvalidSettings
from providers.hyperparameters import Hyperparameters

if TYPE_CHECKING:
    from pydantic import BaseModel

    from providers.cluster.settings import ClusterSettings

ENTRY_POINT_GROUP = "society.providers"

_API, _LOCAL = extras.PACKAGES["api"], extras.PACKAGES["local"]
_BUILT_IN: Mapping[str, tuple[str, ProviderInfo]] = {
    "embedded": (
        "providers.embedded.factory",
        ProviderInfo("local", _LOCAL, in_process=True, free=True, weights=True),
    ),
    "local": (
        "providers.local.factory",
        ProviderInfo("local", _LOCAL, in_process=True, free=True, weights=True),
    ),
    "scripted": ("providers.scripted", ProviderInfo(free=True, weights=True)),
    "replay": ("providers.replay", ProviderInfo(free=True, weights=True)),
    "openai": (
        "providers.openai.factory",
        ProviderInfo("api", _API, batches=True, deployments=True),
    ),
    "bedrock": (
        "providers.bedrock.factory",
        ProviderInfo("bedrock", extras.PACKAGES["bedrock"], deployments=True),
    ),
    "gemini": (
        "providers.gemini.factory",
        ProviderInfo("gemini", extras.PACKAGES["gemini"], batches=True),
    ),
    "tinker": (
        "providers.tinker.factory",
        ProviderInfo("tinker", extras.PACKAGES["tinker"], in_process=True, weights=True),
    ),
}
"""The module whose `FACTORY` opens the scheme, and what the scheme needs."""

_ADDRESS = re.compile(r"(?P<scheme>[a-z][a-z0-9_]*)(?P<target>[:+].*)", re.DOTALL)


def check(address: str, settings: Settings) -> None:
    """Raise `InvalidSettings` or `ModelNotFound` for a wrong address, loading no model."""
    factory, target = resolve(address)
    with extras.name_missing_extras():
        factory.check(target, settings)


def connect(
    address: str, settings: Settings, workdir: Path, cluster: ClusterSettings | None = None
) -> Provider:
    """Open the provider behind `address`; see the module's list of addresses.

    With a `cluster`, a model that would be trained on this machine is trained there.
    """
    factory, target = resolve(address)
    with extras.name_missing_extras():
        if cluster is not None and factory.connect_cluster is not None:
            return factory.connect_cluster(target, settings, workdir, cluster)
        return factory.connect(target, settings, workdir)


def output_settings(address: str, settings: Settings) -> Settings:
    """The settings that change answers; a resumed run must not change them."""
    return resolve(address)[0].output_settings(settings)


def read_sampling(address: str, settings: Settings) -> Mapping[str, object]:
    """The model's own temperature, top_p, top_k, min_p and repetition_penalty, unchecked.

    Raises `InvalidSettings` if its files are not at hand or say nothing of it.
    """
    factory, target = resolve(address)
    if factory.read_sampling is None:
        raise InvalidSettings(
            f"{address} is no local model, whose generation_config.json could be read, and a "
            "server applies its own to what it is not told; write the values that the model's "
            "authors recommend into [sampling]"
        )
    return factory.read_sampling(target, settings)


def read_facts(address: str, settings: Settings) -> FileFacts:
    """What the model's files on this disk say; raises `InvalidSettings` or `ModelNotFound`."""
    factory, target = resolve(address)
    with extras.name_missing_extras():
        return factory.read_facts(target, settings)


def gives_scores(address: str, settings: Settings) -> bool:
    """Whether the provider gives the likelihood of a given text, by its settings."""
    return resolve(address)[0].gives_scores(settings)


def locate_weights(address: str, settings: Settings) -> BaseWeights:
    """What a server of the same base model is started with.

    Raises `InvalidSettings` if there is nothing that such a server could load.
    """
    factory, target = resolve(address)
    if factory.locate_weights is None:
        raise InvalidSettings(
            f"model = {address!r} is no model of this machine, so no server can be started for it; "
            "leave serving.engine out"
        )
    return factory.locate_weights(target, settings)


def write_trial_adapter(
    address: str, settings: Settings, hyperparameters: Hyperparameters, folder: Path
) -> bool:
    """Write an untrained adapter as training would make it, by the base's files but without loading
    its weights.

    False, with nothing written, if models tuned like this are no LoRA adapters in folders.
    """
    factory, target = resolve(address)
    if factory.write_trial_adapter is None or hyperparameters.method != "lora":
        return False
    with extras.name_missing_extras():
        factory.write_trial_adapter(target, settings, hyperparameters, folder)
    return True


def trains_on_clusters(address: str) -> bool:
    """Whether models at `address` can be trained on the nodes of `[cluster]`."""
    return resolve(address)[0].connect_cluster is not None


def find_origin(address: str, settings: Settings) -> BaseOrigin:
    """Where others get the base model; raises `InvalidSettings` or `ModelNotFound`."""
    factory, target = resolve(address)
    with extras.name_missing_extras():
        return factory.find_origin(target, settings)


def info(address: str) -> ProviderInfo:
    """What the scheme of `address` needs and offers; the defaults for a scheme that is unknown.

    Nothing of a built-in provider is imported.
    """
    scheme = address.partition(":")[0].partition("+")[0]
    # From the table: the modules of a scheme may need packages that are not installed.
    if scheme in _BUILT_IN:
        return _BUILT_IN[scheme][1]
    point = _find_entry_point(scheme)
    return ProviderInfo() if point is None else _load_factory(point.load()).info


def price_deployment(address: str, settings: Settings) -> float | None:
    """What a deployed model that was tuned from `address` costs, in USD an hour; None: unknown."""
    if not info(address).deployments:
        return 0.0
    factory, target = resolve(address)
    return factory.price_deployment(target, settings)


def locate_price(address: str) -> PricedModel:
    """How price tables name the model at `address`, which may be of an unknown scheme."""
    match = _ADDRESS.fullmatch(address)
    if match is None:
        return PricedModel(address)
    scheme, target = match["scheme"], match["target"].removeprefix(":")
    if scheme not in _BUILT_IN and _find_entry_point(scheme) is None:
        # A run that is only read may name a provider that is no longer installed.
        return PricedModel(target)
    return resolve(address)[0].locate_price(target)


def read_settings_model(scheme: str) -> type[BaseModel] | None:
    """The model of the `[provider]` table for addresses of `scheme`; None if it is not known."""
    return resolve(f"{scheme}:")[0].settings


def built_in_schemes() -> tuple[str, ...]:
    """The schemes of this package."""
    return tuple(_BUILT_IN)


def schemes() -> tuple[str, ...]:
    """Every scheme that is installed, the built-in ones first."""
    installed = (point.name for point in entry_points(group=ENTRY_POINT_GROUP))
    return tuple(dict.fromkeys((*_BUILT_IN, *installed)))


def resolve(address: str) -> tuple[ProviderFactory, str]:
    """The factory of the address's scheme, and the target behind the scheme."""
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise InvalidSettings(
            f"model address {address!r} has no scheme; write it as SCHEME:MODEL, for example "
            f"'embedded:' or 'local:./my-model' (known schemes: {', '.join(schemes())})"
        )
    scheme, target = match["scheme"], match["target"].removeprefix(":")
    if scheme in _BUILT_IN:
        with extras.name_missing_extras():
            return _load_factory(importlib.import_module(_BUILT_IN[scheme][0])), target
    if point := _find_entry_point(scheme):
        return _load_factory(point.load()), target
    raise InvalidSettings(
        f"model address {address!r} has the unknown scheme {scheme!r}; "
        f"known schemes: {', '.join(schemes())}"
    )


def _find_entry_point(scheme: str) -> EntryPoint | None:
    points = entry_points(group=ENTRY_POINT_GROUP)
    return next((point for point in points if point.name == scheme), None)


def _load_factory(registered: object) -> ProviderFactory:
    """The factory behind an entry point: itself, a module's `FACTORY`, or its two functions."""
    found = getattr(registered, "FACTORY", registered)
    if isinstance(found, ProviderFactory):
        return found
    try:
        return ProviderFactory(found.check, found.connect)  # type: ignore[attr-defined]
    except AttributeError as error:
        raise InvalidSettings(
            f"{registered!r} of the entry points {ENTRY_POINT_GROUP} opens no provider: {error}; "
            "register a providers.base.ProviderFactory"
        ) from error
