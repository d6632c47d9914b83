"""Starting the server of `society view`."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import closing

from society.config.load import ConfigError
from society.view.access import Access, is_loopback, new_token
from society.view.app import create
from society.view.catalogue import Library


def serve(
    library: Library, host: str, port: int, *, ask_token: bool, say: Callable[[str], None]
) -> None:
    """Serve the pages until Ctrl-C; port 0 takes a free one.

    A token is asked for wherever the server can be reached from elsewhere. Raises `ConfigError`
    where `host` and `port` cannot be listened on.
    """
    import uvicorn

    with closing(_listening(host, port)) as listener:
        bound = int(listener.getsockname()[1])
        token = new_token() if ask_token or not is_loopback(host) else None
        access = Access(host, bound, token)
        config = uvicorn.Config(
            create(library, access),
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="on",
            timeout_graceful_shutdown=1,
        )
        say(f"runs in {library.runs}/: {_address(host, bound, token)}")
        if not is_loopback(host):
            say(
                "anyone who can read that address can read these runs; the connection is plain HTTP"
            )
        say("stop with Ctrl-C")
        uvicorn.Server(config).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # From here on nobody is refused: whoever opens the address at once waits for the server.
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host}, port {port}: {error}; choose another with --port or --host"
        ) from None
    return listener


def _address(host: str, port: int, token: str | None) -> str:
    shown = f"[{host}]" if ":" in host else host
    if host in ("0.0.0.0", "::"):
        shown = socket.gethostname()
    query = f"?token={token}" if token else ""
    return f"http://{shown}:{port}/{query}"
