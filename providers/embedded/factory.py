"""What the registry calls for `embedded:`, the local provider on the model in this folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from providers.base import Provider, ProviderFactory, Settings
from providers.embedded import MODEL_DIR
from providers.errors import InvalidSettings
from providers.local import factory
from providers.types import Hyperparameters, Need, PreflightReport

# A model this small loses more by handing work between threads than it gains, above all on a busy
# machine. And fp32 answers have the same bits whatever else is in the batch.
_DEFAULTS: Mapping[str, object] = {"threads": 1, "dtype": "float32"}


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


def connect(target: str, settings: Settings, workdir: Path) -> Provider:
    """Open the built-in model."""
    check(target, settings)
    return factory.open_model("embedded:", str(MODEL_DIR), {**_DEFAULTS, **settings}, workdir)


def preflight(
    target: str, settings: Settings, need: Need, hyperparameters: Hyperparameters
) -> PreflightReport:
    """What the files say about the built-in model."""
    _require_no_target(target)
    return factory.preflight(str(MODEL_DIR), settings, need, hyperparameters)


FACTORY = ProviderFactory(
    check, connect, output_settings=factory.output_settings, preflight=preflight
)
