"""[sampling] defaults = "model": what the file does not set is as the model's own files say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from providers import registry
from providers.errors import ProviderError
from providers.validation import format_errors
from society.config.sampling import SamplingSection
from society.config.schema import Config

_KEYS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def find_model_defaults(config: Config) -> dict[str, float]:
    """The keys of [sampling] that are left to the models, with their values; {} if none are.

    Raises ValueError if a model's values cannot be known or used, or if models differ.
    """
    section = config.sampling
    if section.defaults != "model":
        return {}
    left = [key for key in _KEYS if key not in section.model_fields_set]
    # At temperature 0 there is no choice to narrow down.
    if "temperature" not in left and section.temperature == 0:
        left = [key for key in left if key not in ("top_k", "min_p")]
    asked = {key: _list_unset(config, key) for key in left}
    known = {
        address: _read(config, address, [key for key in left if address in asked[key]])
        for address in dict.fromkeys(address for each in asked.values() for address in each)
    }
    return {
        key: _find_common(key, {address: known[address][key] for address in asked[key]})
        for key in left
    }


def _list_unset(config: Config, key: str) -> list[str]:
    """The addresses of the summarizer, and of agents without a value of their own."""
    own = config.sampling.agents or (None,) * config.society.agents
    agents = zip(own, config.agent_models, strict=True)
    unset = [address for each, address in agents if each is None or getattr(each, key) is None]
    return [config.model, *unset]


def _read(config: Config, address: str, keys: Sequence[str]) -> dict[str, float]:
    """The model's own values for these keys."""
    try:
        found = registry.read_sampling(address, config.settings_of(address))
        stated = SamplingSection.model_validate({key: found[key] for key in keys})
    except ProviderError as error:
        raise ValueError(f'sampling.defaults = "model": {error}') from error
    except ValidationError as error:
        remedy = ", ".join(f"sampling.{problem['loc'][0]}" for problem in error.errors())
        raise ValueError(
            f"generation_config.json of {address} cannot be used: "
            f"{'; '.join(format_errors(error))}; set {remedy}"
        ) from error
    values: dict[str, Any] = {key: getattr(stated, key) for key in keys}
    if values.get("temperature") == 0:
        raise ValueError(
            f"generation_config.json of {address} has temperature = 0, so that all agents would "
            "answer alike; set sampling.temperature"
        )
    return values


def _find_common(key: str, values: dict[str, float]) -> float:
    """The one value that all models have."""
    if len(set(values.values())) > 1:
        stated = ", ".join(f"{value:g} for {address}" for address, value in values.items())
        raise ValueError(
            f"the models' own sampling differs in {key}: {stated}; give each agent its own in "
            f"sampling.agents, or all of them one in sampling.{key}"
        )
    return next(iter(values.values()))
