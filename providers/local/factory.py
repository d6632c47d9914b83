"""What the registry calls for `local:` addresses.

Importing this module and checking an address load neither torch nor a model.
"""

from __future__ import annotations

from pathlib import Path

from providers.base import Provider, ProviderFactory, Settings
from providers.local.placement import runs_on_cpu
from providers.local.settings import LocalSettings
from providers.local.source import locate_model
from providers.types import Hyperparameters, Need, PreflightReport

# How much is computed at a time does not change an answer.
_NO_EFFECT_ON_ANSWERS = ("max_batch_size", "max_batch_tokens", "full_models")
# Where a part waits does not either: it computes on a graphics card if there is one.
_PLACES = ("device_map", "max_memory", "offload_folder")


def check(target: str, settings: Settings) -> None:
    """Raise `InvalidSettings` or `ModelNotFound` for every fault that shows without loading."""
    locate_model(target, LocalSettings.read(settings))


def output_settings(settings: Settings) -> Settings:
    """The settings that change answers; a resumed run must not change them.

    Of `device` only the kind counts: two graphics cards of one machine answer alike.
    """
    kept = {name: value for name, value in settings.items() if name not in _NO_EFFECT_ON_ANSWERS}
    if "device" in kept:
        kept["device"] = str(kept["device"]).partition(":")[0]
    plan = kept.get("device_map")
    if isinstance(plan, dict) and runs_on_cpu(plan):
        kept["device"] = "cpu"
    return {name: value for name, value in kept.items() if name not in _PLACES}


def connect(target: str, settings: Settings, workdir: Path) -> Provider:
    """Open the model at `target`; its weights are loaded at the first request.

    ```python
    provider = connect("./my-model", {"device": "cpu"}, Path("runs/try/models"))
    ```
    """
    return open_model(f"local:{target}", target, settings, workdir)


def open_model(address: str, target: str, settings: Settings, workdir: Path) -> Provider:
    """Open the model at `target` under another scheme's `address`, such as "embedded:"."""
    from providers.local.provider import LocalProvider

    options = LocalSettings.read(settings)
    return LocalProvider(address, locate_model(target, options), options, workdir)


def preflight(
    target: str, settings: Settings, need: Need, hyperparameters: Hyperparameters
) -> PreflightReport:
    """What the files say about the model at `target`; loads nothing."""
    from providers.local.preflight import preflight_files

    return preflight_files(target, settings, need, hyperparameters)


FACTORY = ProviderFactory(check, connect, output_settings=output_settings, preflight=preflight)
