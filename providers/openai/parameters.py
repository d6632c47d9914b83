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

from providers.errors import InvalidSettings
from providers.openai.errors import Refusal
from providers.openai.settings import ModelAddress, OpenAISettings
from providers.types import Sampling

MaxTokens = Literal["max_completion_tokens", "max_tokens"]
Value = str | int | float

# Reasoning models draw at temperature 1 only; the chat and non-reasoning ones of the same names
# take what others take. https://platform.openai.com/docs/guides/reasoning, read 2026-11-22.
_FIXED_SAMPLING = re.compile(r"(o\d|gpt-5)(?!.*chat)", re.IGNORECASE)
_UNSUPPORTED = re.compile(
    r"unsupported|not (yet |currently )?(supported|permitted|allowed|accepted|available)"
    r"|not implemented|isn'?t supported|no longer (supported|accepted|available)"
    r"|does(n'?t| not) (support|accept|take)|unrecogni[sz]ed|unknown|unexpected|deprecated"
    r"|(cannot|must not|may not|should not) be (specified|used|set|passed|given|sent)"
    r"|use '?max_|invalid parameter"
    r"|only (the default|(temperature|top_p) ?= ?1|1(\.0)? (is|can))|may only be set to 1",
    re.IGNORECASE,
)
# "temperature and top_p cannot both be specified": each is fine alone.
_EXCLUSIVE = re.compile(
    r"\bboth\b|\beither\b|only one|one of|mutually exclusive|exclusive|together|simultaneous"
    r"|same time|at once|in combination|combined|alongside|one or the other|but not",
    re.IGNORECASE,
)
_UNSUPPORTED_CODES = {"unsupported_parameter", "unsupported_value", "unknown_parameter"}
_OWN = ("max_completion_tokens", "max_tokens", "temperature", "top_p", "seed")
_PAIR = ("temperature", "top_p")
_NAMED = {name: re.compile(rf"(?<![A-Za-z_]){name}(?![A-Za-z_])") for name in _OWN}


@dataclass(frozen=True, slots=True)
class Parameters:
    """What one model takes."""

    max_tokens: MaxTokens
    temperature: bool = True
    top_p: bool = True
    seed: bool = True
    both: bool = True
    """Whether it takes temperature and top_p in one request."""

    def values(self, sampling: Sampling, key: str, model: str) -> dict[str, Value]:
        """The request's parameters; raises `InvalidSettings` for what `model` cannot honour."""
        values: dict[str, Value] = {self.max_tokens: sampling.max_tokens}
        left_out = None if self.both else _choose_omitted(sampling, model)
        for name, taken, wanted in (
            ("temperature", self.temperature, sampling.temperature),
            ("top_p", self.top_p, sampling.top_p),
        ):
            if name == left_out:
                continue
            if taken:
                values[name] = wanted
            elif wanted != 1.0:
                raise InvalidSettings(
                    f"model {model} takes no {name}, it always uses 1, but {wanted:g} is asked "
                    f"for; {_REMEDIES[name]}"
                )
        if self.seed:
            values["seed"] = derive_seed(sampling.seed, key)
        return values


def _choose_omitted(sampling: Sampling, model: str) -> str:
    """Which of temperature and top_p changes nothing, where only one of them may be sent."""
    if sampling.top_p == 1.0 or sampling.temperature == 0.0:  # greedy whatever top_p is
        return "top_p"
    if sampling.temperature == 1.0:
        return "temperature"
    raise InvalidSettings(
        f"model {model} takes temperature or top_p, not both, but sampling.temperature = "
        f"{sampling.temperature:g} and sampling.top_p = {sampling.top_p:g} are asked for; set one "
        "of them to 1"
    )


_REMEDIES = {
    "temperature": "set sampling.temperature = 1 and, since greedy answers have temperature 0, "
    'evaluation.decodings = ["sampled"]',
    "top_p": "set sampling.top_p = 1",
}


def guess_parameters(address: ModelAddress, model: str, settings: OpenAISettings) -> Parameters:
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


def learn_from_refusal(
    now: Parameters, told: Refusal, sent: Mapping[str, object]
) -> tuple[Parameters, str]:
    """What a refusal teaches, and how to tell the user; the same as `now` where it is nothing.

    Whether a value can be done without is for `Parameters.values` to say.
    """
    if _is_exclusive(told, sent):
        return replace(now, both=False), (
            f"the server takes temperature or top_p, not both ({told.message}); the one that is 1, "
            "and top_p where answers are greedy, is sent no more"
        )
    name = _find_refused(told, sent)
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


def derive_seed(seed: int, key: str) -> int:
    """31 bits from (`seed`, `key`): the same on every machine, and in range for every server."""
    digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _is_exclusive(told: Refusal, sent: Mapping[str, object]) -> bool:
    """Whether a refusal objects to temperature and top_p in one request."""
    named = all(name in sent and _NAMED[name].search(told.message) for name in _PAIR)
    return told.status in (400, 422) and named and bool(_EXCLUSIVE.search(told.message))


def _find_refused(told: Refusal, sent: Mapping[str, object]) -> str | None:
    """Which of our parameters a 400 or 422 objects to for its presence, not for its size."""
    if told.status not in (400, 422):
        return None
    known = {told.code, told.type} & _UNSUPPORTED_CODES
    if not known and not _UNSUPPORTED.search(told.message):
        return _find_dispensable(told, sent)
    if told.param in sent and told.param in _OWN:
        return told.param
    if told.param and told.param not in _OWN:
        return None
    places = _find_mentions(told, sent)
    return min(places)[1] if places else None


def _find_dispensable(told: Refusal, sent: Mapping[str, object]) -> str | None:
    """The one parameter that a refusal names for its value, where that changes nothing if it is not
    sent: the seed, and a top_p of 1 ("top_p must be > 0.0 and < 1.0").
    """
    named = {name for _, name in _find_mentions(told, sent)} | ({told.param} & set(_OWN))
    if named == {"seed"} or (named == {"top_p"} and sent.get("top_p") == 1.0):
        return named.pop()
    return None


def _find_mentions(told: Refusal, sent: Mapping[str, object]) -> list[tuple[int, str]]:
    """Which of our parameters a refusal names, by where it does."""
    return [
        (found.start(), name)
        for name, pattern in _NAMED.items()
        if name in sent and (found := pattern.search(told.message))
    ]
