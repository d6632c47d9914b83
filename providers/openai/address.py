"""From the address behind ``openai`` to a server and a model.

    openai:gpt-4o-mini-2024-07-18
    openai+https://api.tokenfactory.nebius.com/v1:Qwen/Qwen3-8B
    openai+http://127.0.0.1:8000/v1:ft:gpt-4o:org::id

The URL is the one that the openai package calls `base_url`. The model is all that follows the colon
behind it, and may hold colons and slashes itself.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from providers.errors import InvalidSettings
from providers.openai.secrets import Secrets

OPENAI_URL = "https://api.openai.com/v1"

_TARGET = re.compile(
    r"""(?P<url>
        https?://
        (?P<host>\[[0-9A-Fa-f:.]+\]|[^\s/:@\[\]?\#]+)
        (?>(:\d+(?=[:/]|$))?)
        (/[^\s:?\#]*)?
    )
    :(?P<model>\S(.*\S)?)""",
    re.VERBOSE,
)
_FORM = "write it as openai:MODEL or openai+URL:MODEL, e.g. openai+http://127.0.0.1:8000/v1:NAME"
_AZURE = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")
_PRIVATE_SUFFIXES = (".local", ".localhost", ".internal", ".lan")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to ask, and for what. `url` has no slash at its end."""

    url: str
    model: str

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def is_openai(self) -> bool:
        """The vendor itself, also one of its regional endpoints."""
        return self.host == "openai.com" or self.host.endswith(".openai.com")

    @property
    def is_azure(self) -> bool:
        return self.host.endswith(_AZURE)

    @property
    def is_private(self) -> bool:
        """This machine or a network of one's own, as far as the name tells."""
        try:
            ip = ipaddress.ip_address(self.host)
        except ValueError:
            bare = "." not in self.host
            return bare or self.host.endswith(_PRIVATE_SUFFIXES)
        return ip.is_private or ip.is_loopback or ip.is_link_local

    @property
    def is_encrypted(self) -> bool:
        return self.url.startswith("https://")

    @property
    def text(self) -> str:
        """What the user writes."""
        if self.url == OPENAI_URL:
            return f"openai:{self.model}"
        return f"openai+{self.url}:{self.model}"


def parse(target: str) -> Address:
    """Read what stands behind ``openai``: "MODEL" or "+URL:MODEL".

    Raises `InvalidSettings`. Messages do not repeat a URL with a name or password in it.
    """
    if not target.startswith("+"):
        return Address(OPENAI_URL, _model(target, target))
    rest = target[1:]
    if re.match(r"\w+://[^/]*@", rest):
        raise InvalidSettings(
            "the URL of the model address holds a user name or password; keep keys in the "
            "environment and name the variable as api_key_env in [provider]"
        )
    match = _TARGET.fullmatch(rest)
    if match is None:
        shown = Secrets().scrubbed(target)
        raise InvalidSettings(f"model address 'openai{shown}' has no URL and model; {_FORM}")
    return Address(match["url"].rstrip("/"), _model(match["model"], target))


def _model(name: str, target: str) -> str:
    if not name or name != name.strip() or any(ord(letter) < 32 for letter in name):
        raise InvalidSettings(f"model address 'openai:{target}' names no model; {_FORM}")
    return name
