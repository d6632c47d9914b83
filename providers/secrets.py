"""Secret values: read from the environment, and removed from everything that is shown or stored."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from providers.errors import AuthenticationFailed

HIDDEN = "[secret]"

# Shorter values are not treated as secrets at all: removing them would mutilate every message.
_SHORTEST_SECRET = 4
# From this length on a value cannot be an ordinary word, so it is removed from answers too.
_UNMISTAKABLE = 12
_LONGEST_QUOTE = 400
# In the third and fourth line: tokens and keys of Google's and of Amazon's clouds.
_LOOKS_SECRET = re.compile(
    r"""(?ix)
    \b(?:sk|pk|rk|sess|gsk|key|nvapi|hf|fw|xai|r8)[-_][A-Za-z0-9_\-*.]{8,}
    | \b(?:ya29\.|AIza|AQ\.)[A-Za-z0-9_\-.]{8,}
    | \b(?:AKIA|ASIA)[A-Z0-9]{12,}
    | \b(?:bearer|basic)\s+[A-Za-z0-9_\-+/=.~*]{4,}
    | \b(?:authorization|api[-_]?key|x-api-key)["']?\s*[:=]\s*["']?
      (?:(?:bearer|basic)\s+)?[^\s"',;}\]]+
    | (?<=://)[^\s/:@]+:[^\s/@]+(?=@)
    | \beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)?
    """
)


class Secrets:
    """The secret values of one connection, by name. Its repr shows only how many there are.

    >>> Secrets({"key": "plain-key-without-prefix"}).scrub("key plain-key-without-prefix is wrong")
    'key [secret] is wrong'
    """

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        # Longest first, so that a value that contains another one is removed whole.
        kept = {value for value in (values or {}).values() if len(value) >= _SHORTEST_SECRET}
        self._values = sorted(kept, key=len, reverse=True)

    def __repr__(self) -> str:
        return f"Secrets({len(self._values)})"

    def redact_answer(self, text: str) -> str:
        """A model's answer without the secret values; short values may be words, and stay."""
        for value in self._values:
            if len(value) >= _UNMISTAKABLE and value in text:
                text = text.replace(value, HIDDEN)
        return text

    def scrub(self, text: str) -> str:
        """A message without the secret values and without anything that looks like a key."""
        for value in self._values:
            text = text.replace(value, HIDDEN)
        return _LOOKS_SECRET.sub(HIDDEN, text)

    def quote(self, text: str) -> str:
        """A server's words for an error of ours: scrubbed, and cut to 400 characters."""
        # Scrub before cutting: half a key would not be recognized.
        clean = self.scrub(text)
        return clean if len(clean) <= _LONGEST_QUOTE else clean[:_LONGEST_QUOTE] + "…"


def read_variable(name: str, purpose: str) -> str:
    """The value of the environment variable `name`.

    Raises `AuthenticationFailed` if it is unset or empty; `purpose` says what it is needed for.
    """
    value = os.environ.get(name, "").strip()
    if not value:
        raise AuthenticationFailed(
            f"the environment variable {name} is not set; {purpose}: export {name}=… and start "
            "again"
        )
    return value
