"""A server and one of its models, as in the address openai+http://127.0.0.1:8000/v1:NAME."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from providers.errors import InvalidSettings
from providers.secrets import Secrets

# The port is in an atomic group. Otherwise an address without a model would match with ":8000" as
# its model.
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
_PRIVATE_SUFFIXES = (".local", ".localhost", ".internal", ".lan")


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """A server and one of its models. `url` has no trailing slash."""

    url: str
    model: str

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def is_private(self) -> bool:
        """This machine or a private network, as far as the host name shows."""
        try:
            ip = ipaddress.ip_address(self.host)
        except ValueError:
            bare = "." not in self.host
            return bare or self.host.endswith(_PRIVATE_SUFFIXES)
        return ip.is_private or ip.is_loopback or ip.is_link_local

    @property
    def is_encrypted(self) -> bool:
        return self.url.startswith("https://")


def parse_server_address(scheme: str, target: str, form: str) -> ServerAddress:
    """Parse "URL:MODEL"; `form` says how an address of the scheme is written.

    Raises `InvalidSettings`. The message does not repeat a URL that contains a user or password.

    >>> parse_server_address("openai", "http://127.0.0.1:8000/v1:NAME", "").url
    'http://127.0.0.1:8000/v1'
    """
    # Checked first, since the message for any other malformed address repeats the address.
    if re.match(r"\w+://[^/]*@", target):
        raise InvalidSettings(
            "the URL of the model address contains a user name or password; keep keys in the "
            "environment and name the variable as api_key_env in [provider]"
        )
    match = _TARGET.fullmatch(target)
    if match is None:
        written = Secrets().scrub(f"+{target}")
        raise InvalidSettings(f"model address '{scheme}{written}' has no URL and model; {form}")
    return ServerAddress(match["url"].rstrip("/"), match["model"])
