"""What the registry calls for `gemini` addresses. `check` makes no request and needs no key."""

from __future__ import annotations

import re
from pathlib import Path

from providers import extras
from providers.base import PricedModel, Provider, ProviderFactory, Settings
from providers.gemini.settings import HOST, GeminiSettings, check_model

_OUTPUT_SETTINGS = ("thinking_budget", "thinking_level", "location", "tuning_location", "project")
# "gemini-3.5-flash-001" costs what "gemini-3.5-flash" does.
_VERSION = re.compile(r"-\d{3}$")


def check(target: str, settings: Settings) -> None:
    """Raise `InvalidSettings` for a wrong address or setting."""
    check_model(target)
    GeminiSettings.parse(settings)
    extras.require_extra("gemini", "Gemini models")


def connect(target: str, settings: Settings, workdir: Path) -> Provider:
    """The provider; it connects at the first call. `workdir` stays empty."""
    check(target, settings)
    from providers.gemini.provider import GeminiProvider

    return GeminiProvider(check_model(target), GeminiSettings.parse(settings))


def output_settings(settings: Settings) -> Settings:
    """The settings that change answers; buckets, limits and retries do not."""
    return {name: settings[name] for name in _OUTPUT_SETTINGS if name in settings}


def gives_scores(settings: Settings) -> bool:
    """Never: Gemini gives no log-probabilities of a given text."""
    return False


def locate_price(target: str) -> PricedModel:
    """The model's name without its version."""
    return PricedModel(_VERSION.sub("", target), HOST)


FACTORY = ProviderFactory(
    check,
    connect,
    output_settings=output_settings,
    gives_scores=gives_scores,
    locate_price=locate_price,
    settings=GeminiSettings,
)
