"""An HTTP server for tests whose clients may go away at any time."""

from __future__ import annotations

import sys
from http.server import ThreadingHTTPServer


class QuietServer(ThreadingHTTPServer):
    """Prints nothing about a client that is gone: a later test may be reading the output."""

    request_queue_size = 128
    """With the default of five, a busy machine resets calls that come at the same time."""

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)
