"""What the registry calls for `openai` addresses. `check` makes no request and needs no key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from providers import extras
from providers.base import Provider
from providers.openai.settings import OpenAISettings, parse_address

HAS_BATCHES = True
_DECIDING = ("max_tokens_parameter", "temperature", "top_p", "seed", "score")


def check(target: str, settings: Mapping[str, object]) -> None:
    """Raise `InvalidSettings` for a wrong address or setting. The key is read only when the
    connection is opened.
    """
    OpenAISettings.parse(settings, parse_address(target))
    extras.require("api", "models behind an API")


def connect(target: str, settings: Mapping[str, object], workdir: Path) -> Provider:
    """The provider; it connects at the first call. `workdir` stays empty."""
    check(target, settings)
    from providers.openai.provider import OpenAIProvider

    address = parse_address(target)
    written = f"openai{target}" if target.startswith("+") else f"openai:{target}"
    return OpenAIProvider(address, OpenAISettings.parse(settings, address), written)


def deciding(settings: Mapping[str, object]) -> Mapping[str, object]:
    """The settings that change answers; keys, limits and retries do not."""
    return {name: settings[name] for name in _DECIDING if name in settings}


def scores(settings: Mapping[str, object]) -> bool:
    """Whether the settings say that the server returns log-probabilities of a given text."""
    return settings.get("score") is not None
