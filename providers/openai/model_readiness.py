"""Models that were tuned a moment ago: a server may need minutes before they answer.

https://platform.openai.com/docs/guides/supervised-fine-tuning says so of OpenAI. A debate that
starts too early would end at the first "model not found", so the server is polled for the model's
description. The fine-tuning job shows that a model was tuned a moment ago. A model that was tuned
earlier and has no description is not waited for: the server's own refusal ends the debate.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence

from openai import AsyncOpenAI, Omit
from openai.pagination import AsyncCursorPage
from openai.types.fine_tuning import FineTuningJob

from providers.errors import ModelNotFound, ProviderError
from providers.openai.calling import Caller, list_pages

_log = logging.getLogger(__name__)

LONGEST_S = 900.0
# If the jobs cannot be listed, the age of a model is unknown.
_UNKNOWN_AGE_S = 30.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _GROWTH = 1.0, 15.0, 1.5
_WARN_EVERY_S = 60.0
_PAGE, _MOST_PAGES = 100, 10


class ModelReadiness:
    """Waits for the tuned models of one base model, once for each.

    `now` returns Unix seconds, like the server's own times.

        readiness = ModelReadiness(client, caller, "gpt-4.1-mini")
        await readiness.wait(["ft:gpt-4.1-mini:org::id"])
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
        self._fresh: set[str] = set()

    def mark_fresh(self, name: str) -> None:
        """Note that a job has just ended with this model."""
        self._fresh.add(name)

    async def wait(self, names: Iterable[str]) -> None:
        """Return once the server describes every model that it may still be preparing.

        A server that does not even describe the base model describes none, so there is nothing to
        wait for. The first call shows whether a model answers. Raises only cancellation.
        """
        unknown = sorted(set(names) - self._known)
        if not unknown:
            return
        if await self._is_described(self._base) is True:
            # Together, since each question may be retried for a while.
            described = await asyncio.gather(*(self._is_described(name) for name in unknown))
            missing = [n for n, found in zip(unknown, described, strict=True) if found is False]
            if missing:
                limits = await self._compute_limits(missing)
                await asyncio.gather(*map(self._wait_for, missing, limits))
        self._known.update(unknown)

    async def _wait_for(self, name: str, longest_s: float) -> None:
        if longest_s <= 0:
            _log.warning("the server no longer has %s; asking it all the same", name)
            return
        _log.warning("waiting for the server to make %s ready: at most %.0f s", name, longest_s)
        began, pause, next_warning = self._clock(), _FIRST_PAUSE_S, _WARN_EVERY_S
        while (waited := self._clock() - began) < longest_s:
            if waited >= next_warning:
                next_warning += _WARN_EVERY_S
                _log.warning("%s is not ready after %.0f s", name, waited)
            await self._caller.sleep(min(pause, longest_s - waited))
            pause = min(_LONGEST_PAUSE_S, _GROWTH * pause)
            if await self._is_described(name) is not False:
                return
        _log.warning("%s is not ready after %.0f s; asking it all the same", name, longest_s)

    async def _compute_limits(self, names: Sequence[str]) -> list[float]:
        """For how many seconds to wait for each of these models."""
        if self._fresh.issuperset(names):
            return [self._longest_s] * len(names)
        try:
            ended = await self._find_end_times(set(names) - self._fresh)
        except ProviderError:
            ended = None
        return [self._compute_limit(name, ended) for name in names]

    def _compute_limit(self, name: str, ended: dict[str, float | None] | None) -> float:
        if name in self._fresh:
            return self._longest_s
        if ended is None:
            return min(_UNKNOWN_AGE_S, self._longest_s)
        # No job: the model is old or misspelled, and waiting would not bring it.
        if name not in ended:
            return 0.0
        moment = ended[name]
        if moment is None:
            return min(_UNKNOWN_AGE_S, self._longest_s)
        return self._longest_s - max(0.0, self._now() - moment)

    async def _find_end_times(self, names: set[str]) -> dict[str, float | None]:
        """When the job of each model ended (None: unknown), for models whose job is listed."""

        async def fetch_page(after: str | Omit) -> AsyncCursorPage[FineTuningJob]:
            return await self._client.fine_tuning.jobs.list(limit=_PAGE, after=after)

        found: dict[str, float | None] = {}
        count = 0
        call = self._caller.call_with_retry
        async for page in list_pages(call, "fine-tuning jobs", fetch_page):
            for job in page:
                for name in names:
                    # A checkpoint's name begins with that of the job's model.
                    if job.fine_tuned_model and name.startswith(job.fine_tuned_model):
                        found[name] = job.finished_at
            count += 1
            # Lists begin with the newest jobs, so a job beyond these pages ended long ago.
            if len(found) == len(names) or count >= _MOST_PAGES:
                break
        return found

    async def _is_described(self, name: str) -> bool | None:
        """Whether the server describes a model; None if it does not say."""
        try:
            await self._caller.call_with_retry(lambda: self._client.models.retrieve(name))
        except ModelNotFound:
            return False
        except ProviderError:
            return None
        return True
