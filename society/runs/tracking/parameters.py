"""The settings of an experiment as trackers show them: flat, short, and without secrets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from providers.secrets import HIDDEN, Secrets
from society.config.schema import Config

_LONGEST = 250
_SECRET_KEYS = re.compile(r"(?i)(^|_)(key|token|password|secret)$|authorization")
_NOT_IN_KEYS = re.compile(r"[^\w\-. /]")


def list_parameters(config: Config) -> dict[str, str]:
    """Every setting by its dotted name, at most 250 characters long.

    >>> list_parameters(load_config("demo"))["society.agents"]
    '3'
    """
    settings = config.model_dump(mode="json", exclude_none=True)
    # Settings hold no keys, but an address or a free text of the user may.
    secrets = Secrets()
    return {
        _NOT_IN_KEYS.sub("_", key): _shorten(secrets.scrub(value))
        for key, value in _flatten(settings)
    }


def _flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        if _SECRET_KEYS.search(key):
            yield f"{prefix}{key}", HIDDEN
        elif isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)


def _shorten(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
