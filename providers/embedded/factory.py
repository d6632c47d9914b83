"""What the registry calls for `embedded:`, the local provider on the model in this folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from providers.base import BaseOrigin, BaseWeights, FileFacts, Provider, ProviderFactory, Settings
from providers.cluster.settings import ClusterSettings
from providers.embedded import MODEL_DIR
from providers.errors import InvalidSettings
from providers.local import factory
from providers.local.settings import LocalSettings
from providers.types import Finding, Hyperparameters, Need, PreflightReport


class EmbeddedSettings(LocalSettings):
    """The `[provider]` table of the built-in model: that of local models with other defaults."""

    # A model this small loses more by handing work between threads than it gains, above all on a
    # busy machine. And fp32 answers have the same bits whatever else is in the batch.
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """As for `local:`; with float32 an answer has the same bits whatever else is in its batch."""
    threads: int | None = Field(1, ge=1)
    """CPU threads of torch. More of them make a model this small slower."""


_DEFAULTS: Mapping[str, object] = {
    name: EmbeddedSettings.model_fields[name].default for name in ("threads", "dtype")
}


def check(target: str, settings: Settings) -> None:
    """Raise `InvalidSettings` or `ModelNotFound` for what is wrong; load no model."""
    _require_no_target(target)
    factory.check(str(MODEL_DIR), settings)


def _require_no_target(target: str) -> None:
    if target:
        raise InvalidSettings(
            f"'embedded:' takes no name, not {target!r}: there is only one built-in model; write "
            f"'embedded:', or 'local:{target}' for a model of your own"
        )


def connect(
    target: str, settings: Settings, workdir: Path, cluster: ClusterSettings | None = None
) -> Provider:
    """Open the built-in model."""
    check(target, settings)
    chosen = {**_DEFAULTS, **settings}
    return factory.open_model("embedded:", str(MODEL_DIR), chosen, workdir, cluster)


def preflight(
    target: str, settings: Settings, need: Need, hyperparameters: Hyperparameters
) -> PreflightReport:
    """What the files say about the built-in model."""
    _require_no_target(target)
    chosen = {**_DEFAULTS, **settings}
    return factory.preflight(str(MODEL_DIR), chosen, need, hyperparameters)


def preflight_cluster(
    target: str,
    settings: Settings,
    cluster: ClusterSettings,
    workdir: Path,
    hyperparameters: Hyperparameters,
) -> Sequence[Finding]:
    """What of the built-in model's training runs where on a cluster."""
    _require_no_target(target)
    chosen = {**_DEFAULTS, **settings}
    return factory.preflight_cluster(str(MODEL_DIR), chosen, cluster, workdir, hyperparameters)


def read_sampling(target: str, settings: Settings) -> Mapping[str, object]:
    """How the built-in model's own files say that answers are drawn."""
    _require_no_target(target)
    return factory.read_sampling(str(MODEL_DIR), settings)


def read_facts(target: str, settings: Settings) -> FileFacts:
    """What the built-in model's own files say of context and thoughts."""
    _require_no_target(target)
    return factory.read_facts(str(MODEL_DIR), settings)


def write_trial_adapter(
    target: str, settings: Settings, hyperparameters: Hyperparameters, folder: Path
) -> None:
    """Write an untrained adapter for the built-in model."""
    _require_no_target(target)
    chosen = {**_DEFAULTS, **settings}
    factory.write_trial_adapter(str(MODEL_DIR), chosen, hyperparameters, folder)


def locate_weights(target: str, settings: Settings) -> BaseWeights:
    """The built-in model's folder."""
    _require_no_target(target)
    return factory.locate_weights(str(MODEL_DIR), {**_DEFAULTS, **settings})


def find_origin(target: str, settings: Settings) -> BaseOrigin:
    """The built-in model's folder; its licence is that of this package."""
    _require_no_target(target)
    return BaseOrigin(str(MODEL_DIR), local=True, license="apache-2.0")


FACTORY = ProviderFactory(
    check,
    connect,
    output_settings=factory.output_settings,
    preflight=preflight,
    read_sampling=read_sampling,
    read_facts=read_facts,
    settings=EmbeddedSettings,
    locate_weights=locate_weights,
    find_origin=find_origin,
    connect_cluster=connect,
    preflight_cluster=preflight_cluster,
    write_trial_adapter=write_trial_adapter,
)
