"""The models a server lists or describes, in the forms that different servers use, and the dates
on which a model shuts down.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

from openai import AsyncOpenAI

from providers.openai.calling import Caller, UnreadableAnswer
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
_LONGEST_S = 1e11
"""Unix time beyond this is in milliseconds."""


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
        if ends <= datetime.now(UTC):
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
            return datetime.fromtimestamp(value / (1000 if value > _LONGEST_S else 1), UTC)
        if isinstance(value, str):
            return _to_utc(datetime.fromisoformat(value.strip()))
    except (ValueError, OverflowError, OSError):
        return None
    return None


def _to_utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
