"""What the registry calls for `tinker` addresses. `check` makes no request and needs no key."""

from __future__ import annotations

from pathlib import Path

from providers import extras
from providers.base import PricedModel, Provider, ProviderFactory, Settings
from providers.tinker.settings import TinkerSettings, parse_address

# The rest says how to reach the server, or how to train.
_OUTPUT_SETTINGS = (
    *("tokenizer", "revision", "template_date", "chat_template_kwargs", "reasoning_effort"),
)


def check(target: str, settings: Settings) -> None:
    """Raise `InvalidSettings` for a wrong address or setting."""
    parse_address(target)
    TinkerSettings.parse(settings)
    extras.require_extra("tinker", "models behind Tinker's wire")


def connect(target: str, settings: Settings, workdir: Path) -> Provider:
    """The provider; it connects at the first call. Journals of trainings go under `workdir`."""
    check(target, settings)
    from providers.tinker.provider import TinkerProvider

    written = f"tinker{target}" if target.startswith("+") else f"tinker:{target}"
    return TinkerProvider(written, parse_address(target), TinkerSettings.parse(settings), workdir)


def output_settings(settings: Settings) -> Settings:
    """The settings that change answers; keys, limits and how to train do not."""
    return {name: settings[name] for name in _OUTPUT_SETTINGS if name in settings}


def locate_price(target: str) -> PricedModel:
    """Host and model."""
    address = parse_address(target)
    return PricedModel(address.model, address.host)


FACTORY = ProviderFactory(
    check,
    connect,
    output_settings=output_settings,
    locate_price=locate_price,
    settings=TinkerSettings,
)
