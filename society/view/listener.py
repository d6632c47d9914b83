"""The socket that a server of this machine listens on, and the address that its user opens."""

from __future__ import annotations

import socket

from society.config.load import ConfigError


def open_listener(host: str, port: int) -> socket.socket:
    """A socket that takes connections from now on; port 0 takes a free one.

    Raises `ConfigError` where that is impossible, such as on a port that is in use.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    # A server that is stopped and started again gets its port back at once.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # From here on connections queue: a browser that opens the address at once is not refused.
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host}, port {port}: {error}; choose another with --port or --host"
        ) from None
    return listener


def format_address(host: str, port: int) -> str:
    """The address of what listens there, without a path.

    >>> format_address("::1", 8765)
    'http://[::1]:8765'
    """
    shown = f"[{host}]" if ":" in host else host
    # These mean every interface and are no address that a browser can open.
    if host in ("0.0.0.0", "::"):
        shown = socket.gethostname()
    return f"http://{shown}:{port}"
