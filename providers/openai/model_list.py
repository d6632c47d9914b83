"""The models a server tells of, in the forms that servers of this shape give them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from openai import AsyncOpenAI

from providers.openai.calling import Caller, Unreadable

Facts = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class ModelList:
    """Every model by its name, with what the list says of it."""

    models: Mapping[str, Facts]

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self.models)

    def facts(self, model: str) -> Facts | None:
        """What the list says of a model; Gemini's names begin with "models/"."""
        return self.models.get(model, self.models.get(f"models/{model}"))

    def close_to(self, model: str) -> str | None:
        """A name that differs in its variant only: "llama3" and "llama3:latest", "x" and "x:free".

        Routers take variants that they do not list.
        """
        stem = model.rpartition(":")[0] or model
        alike = (name for name in sorted(self.models) if name.rpartition(":")[0] == model)
        return stem if stem != model and stem in self.models else next(alike, None)


async def list_models(client: AsyncOpenAI, caller: Caller) -> ModelList:
    """The server's list: `{"data": […]}` as published, or the bare list that Together sends.

    Raises `Unreadable` for anything else.
    """
    told = await _json(client, caller, "/models", "the list of models")
    items = told.get("data", told.get("models")) if isinstance(told, dict) else told
    if items is None and isinstance(told, dict) and "data" in told:
        items = []
    if not isinstance(items, list):
        raise Unreadable("the server answered the list of models with something else")
    models: dict[str, Facts] = {}
    for item in items:
        facts = item if isinstance(item, dict) else {"id": item}
        name = facts.get("id") or facts.get("name")
        if isinstance(name, str):
            models[name] = facts
    return ModelList(models)


async def describe(client: AsyncOpenAI, caller: Caller, model: str) -> Facts:
    """What the server says of one model. Raises `Unreadable` for what is no description."""
    what = f"model {model}"
    told = await _json(client, caller, f"/models/{quote(model, safe='/:@')}", what)
    found = told.get("data", told) if isinstance(told, dict) else told
    if not isinstance(found, dict) or not (found.get("id") or found.get("name")):
        raise Unreadable(f"the server answered the description of {what} with something else")
    return found


async def _json(client: AsyncOpenAI, caller: Caller, path: str, what: str) -> object:
    text = await caller.patiently(lambda: client.get(path, cast_to=str))
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        raise Unreadable(f"the server answered {what} with something that is not JSON") from None
    return found
