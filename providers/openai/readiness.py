"""Models that were tuned a moment ago: a server may need minutes before they answer.

https://platform.openai.com/docs/guides/supervised-fine-tuning says so of OpenAI. A debate that
starts too early would end at the first "model not found", so the server is asked for the model's
description until it has one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from openai import AsyncOpenAI

from providers.errors import ModelNotFound, ProviderError
from providers.openai.calling import Caller

LONGEST_S = 900.0
_FIRST_S, _LONGEST_PAUSE_S, _GROWTH = 1.0, 15.0, 1.5


class Readiness:
    """Waits for the tuned models of one base model; each is waited for once."""

    def __init__(
        self,
        client: AsyncOpenAI,
        caller: Caller,
        base: str,
        longest_s: float = LONGEST_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._caller = caller
        self._base = base
        self._longest_s = longest_s
        self._clock = clock
        self._known: set[str] = set()

    async def wait(self, names: Iterable[str]) -> None:
        """Return once the server describes every model, or it has taken too long.

        A server that does not even describe the base describes no models at all: no waiting then.
        Whether a model answers shows in its first call. Raises nothing but cancellation.
        """
        fresh = sorted(set(names) - self._known)
        if not fresh:
            return
        if await self._described(self._base) is True:
            await asyncio.gather(*(self._ready(name) for name in fresh))
        self._known.update(fresh)

    async def _ready(self, name: str) -> None:
        until, pause = self._clock() + self._longest_s, _FIRST_S
        while await self._described(name) is False and self._clock() < until:
            await self._caller.sleep(pause)
            pause = min(_LONGEST_PAUSE_S, _GROWTH * pause)

    async def _described(self, name: str) -> bool | None:
        """Whether the server describes a model; None where it cannot be known."""
        try:
            await self._caller.patiently(lambda: self._client.models.retrieve(name))
        except ModelNotFound:
            return False
        except ProviderError:
            return None
        return True
