"""Which sampling parameters a model takes, and under which names.

What is known about a family is in a table; settings overrule it; a server's refusal teaches the
rest, once for a model. A value that is asked for and cannot be honoured is an error, except for the
seed, which is best effort everywhere but in this process.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from providers.base import Sampling
from providers.errors import InvalidSettings
from providers.openai.address import Address
from providers.openai.failures import Refusal
from providers.openai.settings import OpenAISettings

MaxTokens = Literal["max_completion_tokens", "max_tokens"]
Value = str | int | float

# Reasoning models draw at temperature 1 only; the chat and non-reasoning ones of the same names
# take what others take. https://platform.openai.com/docs/guides/reasoning, read 2026-11-22.
_FIXED_SAMPLING = re.compile(r"(o\d|gpt-5)(?!.*chat)", re.IGNORECASE)
_UNSUPPORTED = re.compile(
    r"unsupported|not supported|does not support|not permitted|unrecogni[sz]ed|unknown|unexpected"
    r"|only the default|not allowed|use '?max_",
    re.IGNORECASE,
)
_UNSUPPORTED_CODES = {"unsupported_parameter", "unsupported_value", "unknown_parameter"}
_OWN = ("max_completion_tokens", "max_tokens", "temperature", "top_p", "seed")
_NAMED = {name: re.compile(rf"(?<![A-Za-z_]){name}(?![A-Za-z_])") for name in _OWN}


@dataclass(frozen=True, slots=True)
class Parameters:
    """What one model takes."""

    max_tokens: MaxTokens
    temperature: bool = True
    top_p: bool = True
    seed: bool = True

    def values(self, sampling: Sampling, key: str, model: str) -> dict[str, Value]:
        """The request's parameters; raises `InvalidSettings` for what `model` cannot honour."""
        values: dict[str, Value] = {self.max_tokens: sampling.max_tokens}
        for name, taken, wanted in (
            ("temperature", self.temperature, sampling.temperature),
            ("top_p", self.top_p, sampling.top_p),
        ):
            if taken:
                values[name] = wanted
            elif wanted != 1.0:
                raise InvalidSettings(
                    f"model {model} takes no {name}, it always uses 1, but {wanted:g} is asked "
                    f"for; {_REMEDIES[name]}"
                )
        if self.seed:
            values["seed"] = request_seed(sampling.seed, key)
        return values


_REMEDIES = {
    "temperature": "set sampling.temperature = 1 and, since greedy answers have temperature 0, "
    'evaluation.decodings = ["sampled"]',
    "top_p": "set sampling.top_p = 1",
}


def expected(address: Address, model: str, settings: OpenAISettings) -> Parameters:
    """What `model`, the base or one tuned from it, takes as far as table and settings know."""
    vendor = address.is_openai or address.is_azure
    family = model.removeprefix("ft:")
    fixed = _FIXED_SAMPLING.match(family) is not None and vendor
    known = Parameters(
        max_tokens="max_completion_tokens" if vendor else "max_tokens",
        temperature=not fixed,
        top_p=not fixed,
    )
    told = {
        "max_tokens": settings.max_tokens_parameter,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "seed": settings.seed,
    }
    changes = {name: value for name, value in told.items() if value is not None}
    return replace(known, **changes)  # type: ignore[arg-type]


def learnt(now: Parameters, told: Refusal, sent: Mapping[str, object]) -> tuple[Parameters, str]:
    """What a refusal teaches, and how to tell the user; the same as `now` where it is nothing.

    Whether a value can be done without is for `Parameters.values` to say.
    """
    name = _refused(told, sent)
    match name:
        case None:
            return now, ""
        case "max_tokens":
            changed = replace(now, max_tokens="max_completion_tokens")
        case "max_completion_tokens":
            changed = replace(now, max_tokens="max_tokens")
        case "temperature":
            changed = replace(now, temperature=False)
        case "top_p":
            changed = replace(now, top_p=False)
        case _:
            changed = replace(now, seed=False)
    other = changed.max_tokens if name in ("max_tokens", "max_completion_tokens") else None
    instead = f"{other} is sent instead" if other else "it is sent no more"
    return changed, f"the server does not take {name} ({told.message}); {instead}"


def refuses_parameters(told: Refusal) -> bool:
    """Whether the refusal is about parameters, and so would meet every request alike."""
    return bool({told.code, told.type} & _UNSUPPORTED_CODES)


def request_seed(seed: int, key: str) -> int:
    """31 bits from (`seed`, `key`): the same on every machine, and in range for every server."""
    digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _refused(told: Refusal, sent: Mapping[str, object]) -> str | None:
    """Which of our parameters a 400 or 422 objects to for its presence, not for its size."""
    if told.status not in (400, 422):
        return None
    known = {told.code, told.type} & _UNSUPPORTED_CODES
    if not known and not _UNSUPPORTED.search(told.message):
        return None
    if told.param in sent and told.param in _OWN:
        return told.param
    if told.param and told.param not in _OWN:
        return None
    places = [
        (found.start(), name)
        for name, pattern in _NAMED.items()
        if name in sent and (found := pattern.search(told.message))
    ]
    return min(places)[1] if places else None
