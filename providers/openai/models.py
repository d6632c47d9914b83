"""The models of a server: which it lists, when they shut down, and when new ones are ready.

A model that was tuned a moment ago may need minutes before it answers;
https://platform.openai.com/docs/guides/supervised-fine-tuning says so of OpenAI. A debate that
starts too early would end at the first "model not found". So `ModelReadiness` polls the server for
the model's description. The fine-tuning job shows that a model was tuned a moment ago. A model that
was tuned earlier and has no description is not waited for: the server's own refusal ends the
debate.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

from openai import AsyncOpenAI, Omit
from openai.pagination import AsyncCursorPage
from openai.types.fine_tuning import FineTuningJob

from providers.calling import Caller, UnreadableAnswer
from providers.errors import ModelNotFound, ProviderError
from providers.openai.calling import list_pages
from providers.types import Finding, Need

Facts = Mapping[str, object]

_OTHER_MODEL = "choose a model that stays, or run fewer iterations"
# The names that OpenAI, OpenRouter and gateways use for the same date.
_ANSWERING = (
    "shutdown_date",
    "expiration_date",
    "retirement_date",
    "sunset_date",
    "end_of_life",
    "deprecation_date",
)
_log = logging.getLogger(__name__)

_LONGEST_WAIT_S = 900.0
# If the jobs cannot be listed, the age of a model is unknown.
_UNKNOWN_AGE_S = 30.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _GROWTH = 1.0, 15.0, 1.5
_WARN_EVERY_S = 60.0
_PAGE, _MOST_PAGES = 100, 10
# A Unix time beyond this is in milliseconds.
_MOST_SECONDS = 1e11


@dataclass(frozen=True, slots=True)
class ModelList:
    """Every model by its name, with what the list says about it.

    >>> ModelList({"llama3:latest": {}}).find_variant("llama3")
    'llama3:latest'
    """

    models: Mapping[str, Facts]

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self.models)

    def facts(self, model: str) -> Facts | None:
        """What the list says about a model; Gemini's names begin with "models/"."""
        return self.models.get(model, self.models.get(f"models/{model}"))

    def find_variant(self, model: str) -> str | None:
        """A name that differs only in its variant: "llama3" and "llama3:latest", "x" and "x:free".

        Routers accept variants that they do not list.
        """
        stem = model.rpartition(":")[0] or model
        alike = (name for name in sorted(self.models) if name.rpartition(":")[0] == model)
        return stem if stem != model and stem in self.models else next(alike, None)


async def list_models(client: AsyncOpenAI, caller: Caller) -> ModelList:
    """The server's list: `{"data": […]}` as published, or the bare list that Together sends.

    Raises `UnreadableAnswer` for anything else.
    """
    body = await _get_json(client, caller, "/models", "the list of models")
    items = body.get("data", body.get("models")) if isinstance(body, dict) else body
    # A server without models may send `"data": null`.
    if items is None and isinstance(body, dict) and "data" in body:
        items = []
    if not isinstance(items, list):
        raise UnreadableAnswer("the server answered the list of models with something else")
    models: dict[str, Facts] = {}
    for item in items:
        facts = item if isinstance(item, dict) else {"id": item}
        name = facts.get("id") or facts.get("name")
        if isinstance(name, str):
            models[name] = facts
    return ModelList(models)


async def describe_model(client: AsyncOpenAI, caller: Caller, model: str) -> Facts:
    """What the server says about one model. Raises `UnreadableAnswer` for no description."""
    what = f"model {model}"
    body = await _get_json(client, caller, f"/models/{quote(model, safe='/:@')}", what)
    found = body.get("data", body) if isinstance(body, dict) else body
    if not isinstance(found, dict) or not (found.get("id") or found.get("name")):
        raise UnreadableAnswer(f"the server answered the description of {what} with something else")
    return found


async def _get_json(client: AsyncOpenAI, caller: Caller, path: str, what: str) -> object:
    # As text: the package's types fit only the published form of the list.
    text = await caller.call_with_retry(lambda: client.get(path, cast_to=str))
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        raise UnreadableAnswer(
            f"the server answered {what} with something that is not JSON"
        ) from None
    return found


def find_shutdowns(model: str, facts: Mapping[str, object], need: Need) -> Iterator[Finding]:
    """Findings about the announced end of the model and of its fine-tuning, given the need."""
    for what, ends in _find_dates(facts):
        if what == "fine-tuning" and not need.finetune:
            continue
        day = f"{ends:%Y-%m-%d}"
        if ends <= _to_utc(need.now):
            yield Finding("error", f"{what} of {model} ended on {day}", _OTHER_MODEL)
        elif ends <= _to_utc(need.ends_at):
            text = f"{what} of {model} ends on {day}, before the run may be over"
            yield Finding("error", text, _OTHER_MODEL)
        else:
            text = f"{what} of {model} ends on {day}, and so do the models tuned from it"
            yield Finding("warning", text)


def _find_dates(facts: Mapping[str, object]) -> Iterator[tuple[str, datetime]]:
    # Azure has `deprecation.inference` and `deprecation.fine_tune`, Mistral a bare `deprecation`.
    deprecation = facts.get("deprecation")
    both = deprecation if isinstance(deprecation, Mapping) else {"inference": deprecation}
    answering = [facts.get(name) for name in _ANSWERING] + [both.get("inference")]
    moments = [moment for value in answering if (moment := _parse_moment(value)) is not None]
    if moments:
        yield "answering", min(moments)
    tuning = _parse_moment(both.get("fine_tune") or both.get("fineTune"))
    if tuning is not None:
        yield "fine-tuning", tuning


def _parse_moment(value: object) -> datetime | None:
    """The time of an ISO date or time, or of Unix time; None for anything else."""
    # "20261231" is a date; a longer number is Unix time.
    if isinstance(value, str) and value.strip().isdecimal() and len(value.strip()) > 8:
        value = int(value)
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            return datetime.fromtimestamp(value / (1000 if value > _MOST_SECONDS else 1), UTC)
        if isinstance(value, str):
            return _to_utc(datetime.fromisoformat(value.strip()))
    except (ValueError, OverflowError, OSError):
        return None
    return None


def _to_utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


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
        longest_s: float = _LONGEST_WAIT_S,
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
