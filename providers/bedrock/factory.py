"""What the registry calls for `bedrock` addresses. `check` makes no request and needs no key."""

from __future__ import annotations

from pathlib import Path

from providers import extras
from providers.base import PricedModel, Provider, ProviderFactory, Settings
from providers.bedrock.nova import can_reason
from providers.bedrock.settings import BedrockSettings, parse_model
from providers.errors import InvalidSettings

_HOST = "bedrock"
_OUTPUT_SETTINGS = ("guardrail", "guardrail_version", "reasoning_effort")


def check(target: str, settings: Settings) -> None:
    """Raise `InvalidSettings` for a wrong address or setting."""
    model, parsed = parse_model(target), BedrockSettings.parse(settings)
    if parsed.reasoning_effort is not None and not can_reason(model):
        raise InvalidSettings(
            f"[provider] reasoning_effort: {model} does not reason; remove it, or take "
            "bedrock:us.amazon.nova-2-lite-v1:0"
        )
    extras.require_extra("bedrock", "models at Bedrock")


def connect(target: str, settings: Settings, workdir: Path) -> Provider:
    """The provider; it connects at the first call. `workdir` stays empty."""
    check(target, settings)
    from providers.bedrock.provider import BedrockProvider

    return BedrockProvider(parse_model(target), BedrockSettings.parse(settings))


def output_settings(settings: Settings) -> Settings:
    """The settings that change answers; region, role, bucket and limits do not."""
    return {name: settings[name] for name in _OUTPUT_SETTINGS if name in settings}


def gives_scores(settings: Settings) -> bool:
    """Bedrock gives no log-probabilities of a given text."""
    return False


def locate_price(target: str) -> PricedModel:
    """The model as the price table names it; the figures are those of us-east-1."""
    return PricedModel(target, _HOST)


def price_deployment(target: str, settings: Settings) -> float:
    """Nothing: on-demand deployments are billed by their tokens."""
    return 0.0


FACTORY = ProviderFactory(
    check,
    connect,
    output_settings=output_settings,
    gives_scores=gives_scores,
    locate_price=locate_price,
    price_deployment=price_deployment,
    settings=BedrockSettings,
)
