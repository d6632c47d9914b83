"""Which sampling parameters a model accepts, and under which names.

A table describes known families, settings overrule it, and a server's refusal corrects it, once for
each model. A value that the user sets and the model does not accept is an error. The exception is
the seed, which no server promises to honor.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, assert_never, get_args

from providers.errors import InvalidSettings
from providers.openai.errors import Refusal
from providers.openai.settings import ModelAddress, OpenAISettings
from providers.types import Sampling

MaxTokens = Literal["max_completion_tokens", "max_tokens"]
Value = str | int | float | list[str]

# Reasoning models sample at temperature 1 only; the chat and non-reasoning models of the same names
# accept what others accept. https://platform.openai.com/docs/guides/reasoning, read 2026-11-22.
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
# A refusal like "temperature and top_p cannot both be specified": each is fine alone.
_EXCLUSIVE = re.compile(
    r"\bboth\b|\beither\b|only one|one of|mutually exclusive|exclusive|together|simultaneous"
    r"|same time|at once|in combination|combined|alongside|one or the other|but not",
    re.IGNORECASE,
)
_UNSUPPORTED_CODES = {"unsupported_parameter", "unsupported_value", "unknown_parameter"}
Parameter = Literal["max_completion_tokens", "max_tokens", "temperature", "top_p", "seed"]
_OWN: tuple[Parameter, ...] = get_args(Parameter)
# Further settings are sent only where the user has set them, so that an earlier version's requests,
# by which batches are recognised, stay what they were. OpenAI has these of them, for models that
# sample freely (https://platform.openai.com/docs/api-reference/chat/create, read 2026-11-29); vLLM,
# SGLang and others take all of them.
_OPENAI_EXTRAS = frozenset({"frequency_penalty", "presence_penalty", "stop"})
_SERVER_EXTRAS = _OPENAI_EXTRAS | {"top_k", "min_p", "repetition_penalty"}
# SGLang and older vLLM refuse a top_k of 0, and newer vLLM takes -1 too
# (https://github.com/vllm-project/vllm/issues/17553, read 2026-11-29).
_ALL_TOKENS = -1
_OPENAI_STOPS = 4
_PAIR: tuple[Parameter, ...] = ("temperature", "top_p")


@dataclass(frozen=True, slots=True)
class Parameters:
    """What one model accepts.

    >>> Parameters("max_tokens", seed=False).build_values(Sampling(max_tokens=9), "q1", "m")
    {'max_tokens': 9, 'temperature': 1.0, 'top_p': 1.0}
    """

    max_tokens: MaxTokens
    temperature: bool = True
    top_p: bool = True
    seed: bool = True
    both: bool = True
    """Whether it accepts temperature and top_p in one request."""
    extras: frozenset[str] = _SERVER_EXTRAS
    """The further settings of `Sampling` that it accepts."""
    most_stops: int | None = None
    """How many stop strings it accepts; None: any number."""

    def build_values(self, sampling: Sampling, key: str, model: str) -> dict[str, Value]:
        """The request's parameters; raises `InvalidSettings` for a value `model` cannot honor."""
        values: dict[str, Value] = {self.max_tokens: sampling.max_tokens}
        omitted = None if self.both else _choose_omitted(sampling, model)
        for name, accepted, value in (
            ("temperature", self.temperature, sampling.temperature),
            ("top_p", self.top_p, sampling.top_p),
        ):
            if name == omitted:
                continue
            if accepted:
                values[name] = value
            elif value != 1.0:
                raise InvalidSettings(
                    f"model {model} takes no {name}, it always uses 1, but {value:g} is asked "
                    f"for; {_REMEDIES[name]}"
                )
        if self.seed:
            values["seed"] = derive_seed(sampling.seed, key)
        if faults := self.find_refused_extras(sampling, model):
            raise InvalidSettings("; ".join(faults))
        # Settings that a model does not take are off anyway.
        stated = {n: getattr(sampling, n) for n in sampling.stated_off if n in self.extras}
        for name, extra in {**sampling.list_extras(), **stated}.items():
            values[name] = list(extra) if isinstance(extra, tuple) else extra
        if values.get("top_k") == 0:
            values["top_k"] = _ALL_TOKENS
        return values

    def find_refused_extras(self, sampling: Sampling, model: str) -> list[str]:
        """The further settings that `model` cannot honor, each with its remedy."""
        faults = [
            f"sampling.{name} = {value!r}: the model {model} does not take it; remove it"
            for name, value in sampling.list_extras().items()
            if name not in self.extras
        ]
        if self.most_stops is not None and len(sampling.stop) > self.most_stops:
            faults.append(
                f"sampling.stop has {len(sampling.stop)} strings, and the model {model} takes "
                f"{self.most_stops}; remove some"
            )
        return faults


def _choose_omitted(sampling: Sampling, model: str) -> str:
    """Which of temperature and top_p has no effect, for a model that accepts only one of them."""
    # At temperature 0 the answer is greedy, whatever top_p is.
    if sampling.top_p == 1.0 or sampling.temperature == 0.0:
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
    """What `model` (the base or a model tuned from it) accepts by the table and the settings."""
    # Other servers host models under any name, so the family says nothing there.
    vendor = address.is_openai or address.is_azure
    family = model.removeprefix("ft:")
    fixed = _FIXED_SAMPLING.match(family) is not None and vendor
    known = Parameters(
        max_tokens="max_completion_tokens" if vendor else "max_tokens",
        temperature=not fixed,
        top_p=not fixed,
        extras=_choose_extras(vendor=vendor, fixed=fixed),
        most_stops=_OPENAI_STOPS if vendor else None,
    )
    chosen = {
        "max_tokens": settings.max_tokens_parameter,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "seed": settings.seed,
    }
    changes = {name: value for name, value in chosen.items() if value is not None}
    return replace(known, **changes)  # type: ignore[arg-type]


def _choose_extras(*, vendor: bool, fixed: bool) -> frozenset[str]:
    if not vendor:
        return _SERVER_EXTRAS
    return frozenset() if fixed else _OPENAI_EXTRAS


def learn_from_refusal(
    now: Parameters, refusal: Refusal, sent: Mapping[str, object]
) -> tuple[Parameters, str]:
    """What the model accepts after this refusal, and a note for the user.

    The parameters are `now`, and the note is empty, if the refusal has another reason. Whether a
    value can be left out is decided by `Parameters.build_values`.
    """
    if _is_exclusive(refusal, sent):
        return replace(now, both=False), (
            f"the server takes temperature or top_p, not both ({refusal.message}); the one that is "
            "1, and top_p if answers are greedy, is no longer sent"
        )
    name = _find_refused(refusal, sent)
    match name:
        case None:
            return now, ""
        # Both names mean the same, so the other one is tried.
        case "max_tokens":
            changed = replace(now, max_tokens="max_completion_tokens")
        case "max_completion_tokens":
            changed = replace(now, max_tokens="max_tokens")
        case "temperature":
            changed = replace(now, temperature=False)
        case "top_p":
            changed = replace(now, top_p=False)
        case "seed":
            changed = replace(now, seed=False)
        case _:
            assert_never(name)
    other = changed.max_tokens if name in ("max_tokens", "max_completion_tokens") else None
    instead = f"{other} is sent instead" if other else "it is no longer sent"
    return changed, f"the server does not take {name} ({refusal.message}); {instead}"


def refuses_parameters(refusal: Refusal) -> bool:
    """Whether the refusal is about parameters, so that every request would meet it."""
    return bool({refusal.code, refusal.type} & _UNSUPPORTED_CODES)


def derive_seed(seed: int, key: str) -> int:
    """31 bits from (`seed`, `key`): the same on every machine, and in range for every server."""
    digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _is_exclusive(refusal: Refusal, sent: Mapping[str, object]) -> bool:
    """Whether a refusal objects to temperature and top_p in one request."""
    named = all(name in sent and _find_name(name, refusal.message) for name in _PAIR)
    return refusal.status in (400, 422) and named and bool(_EXCLUSIVE.search(refusal.message))


def _find_refused(refusal: Refusal, sent: Mapping[str, object]) -> Parameter | None:
    """Which of our parameters a 400 or 422 rejects as such, not for its value."""
    if refusal.status not in (400, 422):
        return None
    known = {refusal.code, refusal.type} & _UNSUPPORTED_CODES
    if not known and not _UNSUPPORTED.search(refusal.message):
        return _find_dispensable(refusal, sent)
    own = next((name for name in _OWN if name == refusal.param), None)
    if own in sent:
        return own
    # The refusal is about a parameter that is not ours to change.
    if refusal.param and own is None:
        return None
    # "temperature is not supported, use top_p": the first one named is the one refused. Settings
    # beside ours cannot be left out.
    mentions = _find_mentions(refusal, sent)
    if not mentions or any(
        (found := _find_name(name, refusal.message)) and found.start() < min(mentions)[0]
        for name in _SERVER_EXTRAS & sent.keys()
    ):
        return None
    return min(mentions)[1]


def _find_dispensable(refusal: Refusal, sent: Mapping[str, object]) -> Parameter | None:
    """The one parameter whose value is rejected, if leaving it out changes nothing: the seed, and a
    top_p of 1 ("top_p must be > 0.0 and < 1.0").
    """
    named = {name for _, name in _find_mentions(refusal, sent)}
    named |= {name for name in _OWN if name == refusal.param}
    if named == {"seed"} or (named == {"top_p"} and sent.get("top_p") == 1.0):
        return named.pop()
    return None


def _find_mentions(refusal: Refusal, sent: Mapping[str, object]) -> list[tuple[int, Parameter]]:
    """Our parameters that a refusal names, each with its place in the message."""
    return [
        (found.start(), name)
        for name in _OWN
        if name in sent and (found := _find_name(name, refusal.message))
    ]


def _find_name(name: str, message: str) -> re.Match[str] | None:
    """The first place where a message names this very parameter."""
    return re.search(rf"(?<![A-Za-z_]){name}(?![A-Za-z_])", message)
