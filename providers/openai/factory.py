"""What the registry calls for `openai` addresses. `check` makes no request and needs no key."""

from __future__ import annotations

import re
from pathlib import Path

from providers import extras
from providers.base import PricedModel, Provider, ProviderFactory, Settings
from providers.openai.settings import OpenAISettings, parse_address

_OUTPUT_SETTINGS = (
    *("max_tokens_parameter", "temperature", "top_p", "seed", "score"),
    *("chat_template_kwargs", "reasoning_effort"),
)
_TUNED = re.compile(r"ft:(?P<base>[^:]+)(?::.*)?", re.DOTALL)


def check(target: str, settings: Settings) -> None:
    """Raise `InvalidSettings` for a wrong address or setting. The key is read only when the
    connection is opened.
    """
    OpenAISettings.parse(settings, parse_address(target))
    extras.require_extra("api", "models behind an API")


def connect(target: str, settings: Settings, workdir: Path) -> Provider:
    """The provider; it connects at the first call. `workdir` stays empty."""
    check(target, settings)
    from providers.openai.provider import OpenAIProvider

    address = parse_address(target)
    written = f"openai{target}" if target.startswith("+") else f"openai:{target}"
    return OpenAIProvider(address, OpenAISettings.parse(settings, address), written)


def output_settings(settings: Settings) -> Settings:
    """The settings that change answers; keys, limits and retries do not."""
    return {name: settings[name] for name in _OUTPUT_SETTINGS if name in settings}


def gives_scores(settings: Settings) -> bool:
    """Whether the settings say that the server gives the likelihood of a given text."""
    return settings.get("score") is not None


def locate_price(target: str) -> PricedModel:
    """Host and base model; "ft:BASE:ORGANIZATION::ID" is a model fine-tuned from BASE."""
    address = parse_address(target)
    tune = _TUNED.fullmatch(address.model)
    name = tune["base"] if tune else address.model
    return PricedModel(name, address.host, tuned=tune is not None)


def price_deployment(target: str, settings: Settings) -> float | None:
    """By the sku of `[provider.deployment]`; unknown at Azure if the user deploys. No other server
    wants a fee."""
    address = parse_address(target)
    chosen = OpenAISettings.parse(settings, address).deployment
    if chosen is not None:
        return chosen.usd_per_hour
    return None if address.is_azure else 0.0


FACTORY = ProviderFactory(
    check,
    connect,
    output_settings=output_settings,
    gives_scores=gives_scores,
    locate_price=locate_price,
    price_deployment=price_deployment,
    settings=OpenAISettings,
)
