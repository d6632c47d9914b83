"""Keys and headers that must not be seen: where they come from, and how they are taken out of what
a server says.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from providers.errors import AuthenticationFailed

HIDDEN = "[secret]"
FROM_ENVIRONMENT = "env:"

_SHORTEST = 4
_UNMISTAKABLE = 12
_LOOKS_SECRET = re.compile(
    r"""(?ix)
    \b(?:sk|pk|rk|sess|gsk|key|nvapi|hf|fw|xai|r8)[-_][A-Za-z0-9_\-*.]{8,}
    | \b(?:bearer|basic)\s+[A-Za-z0-9_\-+/=.~*]{4,}
    | \b(?:authorization|api[-_]?key|x-api-key)["']?\s*[:=]\s*["']?
      (?:(?:bearer|basic)\s+)?[^\s"',;}\]]+
    | (?<=://)[^\s/:@]+:[^\s/@]+(?=@)
    | \beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)?
    """
)


class Secrets:
    """The secret values of one connection, by their names. Prints as nothing but their number."""

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        # Longest first, so that a value which is part of another leaves nothing of it.
        kept = {value for value in (values or {}).values() if len(value) >= _SHORTEST}
        self._values = sorted(kept, key=len, reverse=True)

    def __repr__(self) -> str:
        return f"Secrets({len(self._values)})"

    def removed(self, text: str) -> str:
        """A model's answer without the secret values; short ones may be words, and stay."""
        for value in self._values:
            if len(value) >= _UNMISTAKABLE and value in text:
                text = text.replace(value, HIDDEN)
        return text

    def scrubbed(self, text: str) -> str:
        """A message without the secret values and whatever looks like a key or a token."""
        for value in self._values:
            text = text.replace(value, HIDDEN)
        return _LOOKS_SECRET.sub(HIDDEN, text)


def from_environment(name: str, needed_for: str) -> str:
    """The value of the environment variable `name`; raises `AuthenticationFailed` without one."""
    value = os.environ.get(name, "").strip()
    if not value:
        raise AuthenticationFailed(
            f"the environment variable {name} is not set; {needed_for}: export {name}=… and start "
            "again"
        )
    return value
