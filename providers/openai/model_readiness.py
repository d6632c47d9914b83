"""Models that were tuned a moment ago: a server may need minutes before they answer.

https://platform.openai.com/docs/guides/supervised-fine-tuning says so of OpenAI. A debate that
starts too early would end at the first "model not found", so the server is asked for the model's
description until it has one. That a model was tuned a moment ago is seen from its job; one that was
tuned before and is not described is asked at once, and the server's own refusal ends the debate.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence

from openai import AsyncOpenAI
from openai._types import Omit
from openai.pagination import AsyncCursorPage
from openai.types.fine_tuning import FineTuningJob

from providers.errors import ModelNotFound, ProviderError
from providers.openai.calling import Caller, list_pages

_log = logging.getLogger(__name__)

LONGEST_S = 900.0
# Where the jobs cannot be listed, nobody knows how old a model is.
_UNKNOWN_S = 30.0
_FIRST_S, _LONGEST_PAUSE_S, _GROWTH = 1.0, 15.0, 1.5
_TOLD_EVERY_S = 60.0
_PAGE, _MOST_PAGES = 100, 10


class ModelReadiness:
    """Waits for the tuned models of one base model; each is waited for once.

    `now` is in Unix seconds, as the server's own times are.
    """

    def __init__(
        self,
        client: AsyncOpenAI,
        caller: Caller,
        base: str,
        longest_s: float = LONGEST_S,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._caller = caller
        self._base = base
        self._longest_s = longest_s
        self._clock = clock
        self._now = now
        self._known: set[str] = set()
        self._made: set[str] = set()

    def made(self, name: str) -> None:
        """A job has just been seen to end with this model."""
        self._made.add(name)

    async def wait(self, names: Iterable[str]) -> None:
        """Return once the server describes every model that it may still be making ready.

        A server that does not even describe the base describes no models at all: no waiting then.
        Whether a model answers shows in its first call. Raises nothing but cancellation.
        """
        fresh = sorted(set(names) - self._known)
        if not fresh:
            return
        if await self._described(self._base) is True:
            described = await asyncio.gather(*(self._described(name) for name in fresh))
            missing = [n for n, found in zip(fresh, described, strict=True) if found is False]
            if missing:
                await asyncio.gather(*map(self._ready, missing, await self._left(missing)))
        self._known.update(fresh)

    async def _ready(self, name: str, longest_s: float) -> None:
        if longest_s <= 0:
            _log.warning("the server does not have %s any more; asking it all the same", name)
            return
        _log.warning("waiting for the server to make %s ready: at most %.0f s", name, longest_s)
        began, pause, told = self._clock(), _FIRST_S, _TOLD_EVERY_S
        while (waited := self._clock() - began) < longest_s:
            if waited >= told:
                told += _TOLD_EVERY_S
                _log.warning("%s is not ready after %.0f s", name, waited)
            await self._caller.sleep(min(pause, longest_s - waited))
            pause = min(_LONGEST_PAUSE_S, _GROWTH * pause)
            if await self._described(name) is not False:
                return
        _log.warning("%s is not ready after %.0f s; asking it all the same", name, longest_s)

    async def _left(self, names: Sequence[str]) -> list[float]:
        """For how many seconds each of these models may still be made ready."""
        if self._made.issuperset(names):
            return [self._longest_s] * len(names)
        try:
            ended = await self._ended(set(names) - self._made)
        except ProviderError:
            ended = None
        return [self._rest(name, ended) for name in names]

    def _rest(self, name: str, ended: dict[str, float | None] | None) -> float:
        if name in self._made:
            return self._longest_s
        if ended is None:
            return min(_UNKNOWN_S, self._longest_s)
        if name not in ended:
            return 0.0
        moment = ended[name]
        if moment is None:
            return min(_UNKNOWN_S, self._longest_s)
        return self._longest_s - max(0.0, self._now() - moment)

    async def _ended(self, names: set[str]) -> dict[str, float | None]:
        """When the job of each model ended, as far as the server has the job and tells."""

        async def fetch(after: str | Omit) -> AsyncCursorPage[FineTuningJob]:
            return await self._client.fine_tuning.jobs.list(limit=_PAGE, after=after)

        found: dict[str, float | None] = {}
        count = 0
        async for page in list_pages(self._caller.patiently, "fine-tuning jobs", fetch):
            for job in page:
                for name in names:
                    # A checkpoint's name begins with that of the job's model.
                    if job.fine_tuned_model and name.startswith(job.fine_tuned_model):
                        found[name] = job.finished_at
            count += 1
            if len(found) == len(names) or count >= _MOST_PAGES:
                break
        return found

    async def _described(self, name: str) -> bool | None:
        """Whether the server describes a model; None where it cannot be known."""
        try:
            await self._caller.patiently(lambda: self._client.models.retrieve(name))
        except ModelNotFound:
            return False
        except ProviderError:
            return None
        return True
