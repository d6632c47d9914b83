"""HTTP under the SDK: a request that changes something is sent once, and silence is noticed.

The SDK repeats a request whose answer did not arrive, for minutes. Servers from before August 2026
then accumulate a gradient or apply an optimizer step twice. So such a request gets `LOST` as its
answer, which the SDK does not repeat; whoever trains goes back to the last saved state. A request
that never went out is repeated as ever.
"""

from __future__ import annotations

import asyncio
import time

import httpx

LOST = 499
"""The HTTP status that stands for an answer that did not arrive."""
FAILED = 424
"""The HTTP status that stands for a failure of the server while it did the work."""

_ONCE = (
    *("/forward", "/forward_backward", "/optim_step", "/create_model", "/load_weights"),
    *("/save_weights", "/save_weights_for_sampler", "/asample"),
)
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
# With these the server has certainly not begun.
_REFUSED = frozenset({429, 503})
# What stands before the server answers, not the server.
_GATEWAY = frozenset({502, 503, 504})
# The SDK asks for a result again at once after a failing gateway.
_PAUSE_S = 0.5
_MOST_CONNECTIONS = 512


class CarefulTransport(httpx.AsyncBaseTransport):
    """The transport of one connection. `failing_s` may be read from any thread."""

    def __init__(self) -> None:
        limits = httpx.Limits(max_connections=_MOST_CONNECTIONS)
        self._inner = httpx.AsyncHTTPTransport(limits=limits)
        self._failing_since: float | None = None
        self.problem = ""

    @property
    def failing_s(self) -> float:
        """For how many seconds the server has answered no request although some were sent."""
        since = self._failing_since
        return 0.0 if since is None else time.monotonic() - since

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        once = request.url.path.endswith(_ONCE)
        try:
            response = await self._inner.handle_async_request(request)
            if once:
                response = await _read_whole(response)
        except httpx.TransportError as error:
            self._note_failure(error)
            if once and not isinstance(error, _NOT_SENT):
                return httpx.Response(LOST, json={"detail": f"no answer: {_describe(error)}"})
            raise
        status = response.status_code
        if status in _GATEWAY:
            self._note_failure(httpx.RemoteProtocolError(f"status {status}"))
        else:
            self._failing_since = None
        if once and (status >= 500 or status in (408, 409)) and status not in _REFUSED:
            return httpx.Response(LOST, json={"detail": f"{status}: {response.text[:400]}"})
        if request.url.path.endswith("/retrieve_future"):
            return await _slow_down(response)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()

    def _note_failure(self, error: httpx.TransportError) -> None:
        # The SDK asks for results with a short time-out, again and again, while a server computes.
        if isinstance(error, httpx.ReadTimeout):
            return
        self.problem = _describe(error)
        if self._failing_since is None:
            self._failing_since = time.monotonic()


async def _read_whole(response: httpx.Response) -> httpx.Response:
    """The response with its body, so that a connection that breaks in it counts as lost."""
    content = await response.aread()
    await response.aclose()
    # The content is decoded already.
    dropped = ("content-encoding", "content-length", "transfer-encoding")
    headers = {name: value for name, value in response.headers.items() if name not in dropped}
    return httpx.Response(response.status_code, headers=headers, content=content)


async def _slow_down(response: httpx.Response) -> httpx.Response:
    if response.status_code == 500:
        # The work itself has failed, and the SDK would ask for its result for ever.
        whole = await _read_whole(response)
        return httpx.Response(FAILED, json={"detail": f"500: {whole.text[:400]}"})
    if response.status_code > 500:
        await asyncio.sleep(_PAUSE_S)
    return response


def _describe(error: Exception) -> str:
    return str(error) or type(error).__name__
