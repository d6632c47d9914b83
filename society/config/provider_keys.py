"""The keys of `[provider]`, read from the models of the providers' settings."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from functools import cache

from pydantic import BaseModel

from providers import registry
from society.config.keys import Key, walk_table


@cache
def list_provider_keys(*, built_in: bool = False) -> tuple[Key, ...]:
    """The keys of every scheme's `[provider]` table, scheme by scheme; each key has one scheme.

    `built_in` leaves out the schemes of other packages. A scheme whose settings are a variant of
    another's comes last.
    """
    models = _load_models(registry.built_in_schemes() if built_in else registry.schemes())

    def is_variant(scheme: str) -> bool:
        others = (model for model in models.values() if model is not models[scheme])
        return any(issubclass(models[scheme], other) for other in others)

    return tuple(
        replace(key, schemes=(scheme,))
        for scheme in sorted(models, key=is_variant)
        for key in _read_keys(models[scheme])
        if key.description
    )


def merge_schemes(keys: Iterable[Key]) -> tuple[Key, ...]:
    """The same keys, where those that differ in their scheme only are one key of all its schemes.

    >>> next(key.schemes for key in merge_schemes(list_provider_keys()) if "device" in key.name)
    ('local', 'embedded')
    """
    merged: dict[Key, tuple[str, ...]] = {}
    for key in keys:
        plain = replace(key, schemes=())
        merged[plain] = merged.get(plain, ()) + key.schemes
    return tuple(replace(key, schemes=schemes) for key, schemes in merged.items())


def _load_models(schemes: Iterable[str]) -> dict[str, type[BaseModel]]:
    models = {}
    for scheme in schemes:
        # Other packages' code runs here; a broken one must not hide the keys of the rest.
        with suppress(Exception):
            if (model := registry.read_settings_model(scheme)) is not None:
                models[scheme] = model
    return models


def _read_keys(model: type[BaseModel]) -> Iterable[Key]:
    schema = model.model_json_schema()
    return walk_table(schema, schema, "provider.")
