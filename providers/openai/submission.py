"""Creating something that costs money, where sending the request twice would create two.

No server of the OpenAI shape takes an idempotency key for jobs and batches, so after an unknown
outcome one has to look whether it is there, for as long as a list may lag behind, before it may be
sent again.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from providers import halting
from providers.errors import (
    AmbiguousSubmission,
    BadRequest,
    ConnectionLost,
    RateLimited,
    RetryableError,
    TimedOut,
)
from providers.openai.calling import ATTEMPTS, Caller, NeverSent, identity, pause_s, status_code
from providers.openai.settings import LISTING_LAG_S

T = TypeVar("T")

SUBMISSIONS = 3
"""How often in a row something is submitted of which nothing can be found afterwards."""

_log = logging.getLogger(__name__)
_NOT_READY = ("not ready", "being processed", "still processing")
# A vendor that takes a few jobs at a time refuses the next one until one of them has ended.
_TURN_S = 24 * 3600.0
_LONGEST_TURN_PAUSE_S = 300.0
# Behind a gateway that gave up waiting, or a broken connection, the server may be at work still.
_SILENT = frozenset({408, 502, 504, 520, 522, 523, 524})
_SILENT_LAGS = 2.0


async def create_once(
    caller: Caller,
    what: str,
    create: Callable[[], Awaitable[T]],
    lag_s: float = LISTING_LAG_S,
) -> T:
    """Send `create`, again only where the server has certainly not taken it.

    That is so for a rate limit, which is waited out for up to a day, for a connection that never
    came about, and for a file that is not ready yet. Any other passing failure, and an answer that
    cannot be read, leaves open whether `what` exists: `AmbiguousSubmission`, which settles in
    `lag_s` seconds, or in a multiple of them where the server has not answered. Clean refusals are
    raised as the caller translates them.
    """

    async def checked() -> T:
        created = await create()
        identity(created)
        return created

    waited, attempts = 0.0, 0
    while True:
        try:
            async with halting.of_this_loop().passing():
                return await caller.once(checked)
        except RateLimited as error:
            pause = pause_s(error, attempts, _LONGEST_TURN_PAUSE_S)
            if waited + pause > _TURN_S:
                raise
            _log.warning("%s waits %.0f s: %s", what, pause, error)
            waited += pause
        except (RetryableError, BadRequest) as error:
            if not _certainly_not_taken(error):
                if isinstance(error, BadRequest):
                    raise
                raise AmbiguousSubmission(
                    f"{what} may or may not have been created: {error}",
                    settles_in_s=_settling_s(error, lag_s),
                ) from error
            pause = pause_s(error, attempts)
            if attempts >= ATTEMPTS:
                raise
        attempts += 1
        await caller.sleep(pause)


def _certainly_not_taken(error: RetryableError | BadRequest) -> bool:
    if isinstance(error, BadRequest):
        return any(words in str(error).lower() for words in _NOT_READY)
    return isinstance(error.__cause__, NeverSent)


def _settling_s(error: RetryableError, lag_s: float) -> float | None:
    """Seconds after which what was created would be listed; None for a success that is garbled."""
    status = status_code(error)
    if status in _SILENT or (status is None and isinstance(error, ConnectionLost | TimedOut)):
        return _SILENT_LAGS * lag_s
    return lag_s if status is not None and status >= 400 else None
