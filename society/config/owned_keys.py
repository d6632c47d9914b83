"""The keys of `[provider]` and the options of `[task]`, read from the models of their owners."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache

from pydantic import BaseModel

from evals import tasks
from providers import registry
from society.config.keys import Key, walk_table


@cache
def list_provider_keys(*, built_in: bool = False) -> tuple[Key, ...]:
    """The keys of every scheme's `[provider]` table, scheme by scheme; each key has one owner.

    `built_in` leaves out the schemes of other packages. A scheme whose settings are a variant of
    another's comes last.
    """
    return _list_keys(
        _load_models(registry.built_in_schemes() if built_in else registry.schemes()), "provider."
    )


@cache
def list_task_keys() -> tuple[Key, ...]:
    """The options of the built-in tasks, task by task; each key has one owner."""
    return _list_keys(
        {name: tasks.read_options_model(name) for name in tasks.list_built_in()}, "task."
    )


def merge_owners(keys: Iterable[Key]) -> tuple[Key, ...]:
    """The same keys, where those that differ in their owner only are one key of all its owners.

    >>> next(key.owners for key in merge_owners(list_provider_keys()) if "device" in key.name)
    ('local:', 'embedded:')
    """
    merged: dict[Key, tuple[str, ...]] = {}
    for key in keys:
        plain = replace(key, owners=())
        merged[plain] = merged.get(plain, ()) + key.owners
    return tuple(replace(key, owners=owners) for key, owners in merged.items())


def _load_models(schemes: Iterable[str]) -> Mapping[str, type[BaseModel]]:
    models = {}
    for scheme in schemes:
        # Other packages' code runs here; a broken one must not hide the keys of the rest.
        with suppress(Exception):
            if (model := registry.read_settings_model(scheme)) is not None:
                models[f"{scheme}:"] = model
    return models


def _list_keys(models: Mapping[str, type[BaseModel]], prefix: str) -> tuple[Key, ...]:
    def is_variant(owner: str) -> bool:
        others = (model for model in models.values() if model is not models[owner])
        return any(issubclass(models[owner], other) for other in others)

    return tuple(
        replace(key, owners=(owner,))
        for owner in sorted(models, key=is_variant)
        for key in _read_keys(models[owner], prefix)
        if key.description
    )


def _read_keys(model: type[BaseModel], prefix: str) -> Iterator[Key]:
    schema = model.model_json_schema()
    return walk_table(schema, schema, prefix)
