"""Where the server is and how to talk to it: model address, `[provider]` table, secrets.

    openai:gpt-4o-mini-2024-07-18
    openai+https://api.tokenfactory.nebius.com/v1:Qwen/Qwen3-8B
    openai+http://127.0.0.1:8000/v1:ft:gpt-4o:org::id

The URL is what the openai package calls `base_url`. The model is everything after the colon that
follows the URL, and may contain colons and slashes itself.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from providers.errors import AuthenticationFailed, InvalidSettings
from providers.limits import Limits, RetryPolicy

OPENAI_URL = "https://api.openai.com/v1"
LISTING_LAG_S = 20.0
"""Seconds for which a server's list may not yet show an object that was just created."""
HIDDEN = "[secret]"
ENV_PREFIX = "env:"
"""A header value that starts with this names an environment variable."""

Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]

# The port is in an atomic group. Otherwise an address without a model would match with ":8000" as
# its model.
_TARGET = re.compile(
    r"""(?P<url>
        https?://
        (?P<host>\[[0-9A-Fa-f:.]+\]|[^\s/:@\[\]?\#]+)
        (?>(:\d+(?=[:/]|$))?)
        (/[^\s:?\#]*)?
    )
    :(?P<model>\S(.*\S)?)""",
    re.VERBOSE,
)
_FORM = "write it as openai:MODEL or openai+URL:MODEL, e.g. openai+http://127.0.0.1:8000/v1:NAME"
# Azure's own endpoints need the key in a header of another name, and list no deployments.
_AZURE = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")
_PRIVATE_SUFFIXES = (".local", ".localhost", ".internal", ".lan")

# OpenAI's models from before reasoning models, and those tuned from them.
_NO_REASONING = re.compile(r"(ft:)?(gpt-3|gpt-4|chatgpt|davinci|babbage)", re.IGNORECASE)
_VARIABLE = r"^([A-Z_][A-Z0-9_]*)?$"
_DEFAULT_KEY = "OPENAI_API_KEY"
# Users try these names; the error says where a key belongs instead.
_KEY_SETTINGS = {"api_key", "apikey", "key", "token", "openai_api_key", "admin_api_key"}
# A header whose name matches is taken to be a secret, whatever its value looks like.
_SECRET_HEADER = re.compile(r"auth|key|token|secret|cookie|credential|password", re.IGNORECASE)
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")

# Shorter values are not treated as secrets at all: removing them would mutilate every message.
_SHORTEST_SECRET = 4
# From this length on a value cannot be an ordinary word, so it is removed from answers too.
_UNMISTAKABLE = 12
_LOOKS_SECRET = re.compile(
    r"""(?ix)
    \b(?:sk|pk|rk|sess|gsk|key|nvapi|hf|fw|xai|r8)[-_][A-Za-z0-9_\-*.]{8,}
    | \b(?:bearer|basic)\s+[A-Za-z0-9_\-+/=.~*]{4,}
    | \b(?:authorization|api[-_]?key|x-api-key)["']?\s*[:=]\s*["']?
      (?:(?:bearer|basic)\s+)?[^\s"',;}\]]+
    | (?<=://)[^\s/:@]+:[^\s/@]+(?=@)
    | \beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)?
    """
)


class Secrets:
    """The secret values of one connection, by name. Its repr shows only how many there are.

    >>> Secrets({"key": "plain-key-without-prefix"}).scrub("key plain-key-without-prefix is wrong")
    'key [secret] is wrong'
    """

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        # Longest first, so that a value that contains another one is removed whole.
        kept = {value for value in (values or {}).values() if len(value) >= _SHORTEST_SECRET}
        self._values = sorted(kept, key=len, reverse=True)

    def __repr__(self) -> str:
        return f"Secrets({len(self._values)})"

    def redact_answer(self, text: str) -> str:
        """A model's answer without the secret values; short values may be words, and stay."""
        for value in self._values:
            if len(value) >= _UNMISTAKABLE and value in text:
                text = text.replace(value, HIDDEN)
        return text

    def scrub(self, text: str) -> str:
        """A message without the secret values and without anything that looks like a key."""
        for value in self._values:
            text = text.replace(value, HIDDEN)
        return _LOOKS_SECRET.sub(HIDDEN, text)


def read_variable(name: str, purpose: str) -> str:
    """The value of the environment variable `name`.

    Raises `AuthenticationFailed` if it is unset or empty; `purpose` says what it is needed for.
    """
    value = os.environ.get(name, "").strip()
    if not value:
        raise AuthenticationFailed(
            f"the environment variable {name} is not set; {purpose}: export {name}=… and start "
            "again"
        )
    return value


@dataclass(frozen=True, slots=True)
class ModelAddress:
    """A server and one of its models. `url` has no trailing slash."""

    url: str
    model: str

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def is_openai(self) -> bool:
        """OpenAI itself, including its regional endpoints."""
        return self.host == "openai.com" or self.host.endswith(".openai.com")

    @property
    def is_azure(self) -> bool:
        return self.host.endswith(_AZURE)

    @property
    def is_private(self) -> bool:
        """This machine or a private network, as far as the host name shows."""
        try:
            ip = ipaddress.ip_address(self.host)
        except ValueError:
            bare = "." not in self.host
            return bare or self.host.endswith(_PRIVATE_SUFFIXES)
        return ip.is_private or ip.is_loopback or ip.is_link_local

    @property
    def is_encrypted(self) -> bool:
        return self.url.startswith("https://")

    @property
    def text(self) -> str:
        """The address as the user writes it."""
        if self.url == OPENAI_URL:
            return f"openai:{self.model}"
        return f"openai+{self.url}:{self.model}"


def parse_address(target: str) -> ModelAddress:
    """Parse "MODEL" (what follows ``openai:``) or "+URL:MODEL" (what follows ``openai``).

    Raises `InvalidSettings`. The message does not repeat a URL that contains a user or password.

    >>> parse_address("+http://127.0.0.1:8000/v1:Qwen/Qwen3-8B").model
    'Qwen/Qwen3-8B'
    """
    if not target.startswith("+"):
        return ModelAddress(OPENAI_URL, _check_model_name(target, target))
    rest = target[1:]
    # Checked first, since the message for any other malformed address repeats the address.
    if re.match(r"\w+://[^/]*@", rest):
        raise InvalidSettings(
            "the URL of the model address contains a user name or password; keep keys in the "
            "environment and name the variable as api_key_env in [provider]"
        )
    match = _TARGET.fullmatch(rest)
    if match is None:
        written = Secrets().scrub(target)
        raise InvalidSettings(f"model address 'openai{written}' has no URL and model; {_FORM}")
    return ModelAddress(match["url"].rstrip("/"), _check_model_name(match["model"], target))


def _check_model_name(name: str, target: str) -> str:
    if not name or name != name.strip() or any(ord(letter) < 32 for letter in name):
        raise InvalidSettings(f"model address 'openai:{target}' names no model; {_FORM}")
    return name


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LimitSettings(_Section):
    """How fast to send requests. Without budgets the limiter follows the server's headers.

    `tokens_per_minute` counts prompts plus the `max_tokens` of the answers. `max_concurrent` is
    the upper bound to which the limiter may raise concurrency.
    """

    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None
    max_concurrent: Annotated[int, Field(ge=1, le=4096)] = 512


class OpenAISettings(_Section):
    """The `[provider]` table for a server that speaks OpenAI's API. It never contains a key.

    api_key_env: the environment variable with the key; "" sends none. The default is
        OPENAI_API_KEY for OpenAI and no key for a server on this machine or in a private network.
        For any other server it must be named, so that a key never reaches the wrong vendor.
    organization, project: for OpenAI; the defaults are OPENAI_ORG_ID and OPENAI_PROJECT_ID.
    headers: sent with every request; a value "env:NAME" is read from the environment.
    timeout_s: for one attempt of one call.
    max_attempts, give_up_after_s: how long to retry a failing call; see `providers.limits`.
    max_tokens_parameter, temperature, top_p, seed: which parameters the model accepts, where
        neither the built-in table nor the server's refusals get it right.
    chat_template_kwargs: for servers such as vLLM and SGLang: values for variables of the model's
        chat template, such as {"enable_thinking": False}.
    reasoning_effort: how much a reasoning model thinks, such as "low".
    score: "vllm" if the server is vLLM, which returns log-probabilities of a given text.
    finetune: whether the server has fine-tuning jobs.
    max_parallel_jobs: how many fine-tuning jobs to run at a time.
    poll_s: minimum seconds between two polls of a job.
    listing_lag_s: how long the server's list of jobs may not show a new one. If the outcome of a
        submission is unknown, the job is searched for that long before it is submitted again.
    """

    api_key_env: Annotated[str, Field(pattern=_VARIABLE)] | None = None
    organization: Annotated[str, Field(min_length=1)] | None = None
    project: Annotated[str, Field(min_length=1)] | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    timeout_s: Positive = 600.0
    limits: LimitSettings = LimitSettings()
    max_attempts: Count = 16
    give_up_after_s: Positive = 600.0
    max_tokens_parameter: Literal["max_completion_tokens", "max_tokens"] | None = None
    temperature: bool | None = None
    top_p: bool | None = None
    seed: bool | None = None
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    reasoning_effort: Annotated[str, Field(min_length=1)] | None = None
    score: Literal["vllm"] | None = None
    finetune: bool = True
    max_parallel_jobs: Count = 6
    poll_s: Positive = 2.0
    listing_lag_s: Annotated[float, Field(ge=0.0, le=3600.0)] = LISTING_LAG_S

    @field_validator("headers")
    @classmethod
    def _check_headers(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if _HEADER_NAME.fullmatch(name) is None:
                raise ValueError("a header's name has letters, digits and dashes only")
            variable = value.removeprefix(ENV_PREFIX)
            if variable != value:
                if not variable or re.fullmatch(_VARIABLE, variable) is None:
                    raise ValueError(f"header {name!r}: write the value as 'env:VARIABLE_NAME'")
            elif _SECRET_HEADER.search(name) or Secrets().scrub(value) != value:
                raise ValueError(
                    f"header {name!r} looks like a secret, and the experiment file is stored; "
                    "put the value into an environment variable and write 'env:VARIABLE_NAME'"
                )
            elif not value.isprintable():
                raise ValueError(f"header {name!r} has a value that cannot be sent")
        return headers

    @classmethod
    def parse(cls, settings: Mapping[str, object], address: ModelAddress) -> OpenAISettings:
        """The validated settings; raises `InvalidSettings` with the key and the remedy.

        Messages do not repeat values, because a value may be a key pasted by mistake.
        """
        for name in settings:
            if name.lower() in _KEY_SETTINGS:
                raise InvalidSettings(
                    f"[provider] {name}: a key does not belong into an experiment file, which is "
                    "stored; remove it, put the key into an environment variable and name that as "
                    "api_key_env"
                )
        try:
            parsed = cls.model_validate(dict(settings))
        # pydantic's own message would repeat the value, which may be a key.
        except ValidationError as error:
            faults = error.errors(include_url=False)
            raise InvalidSettings("; ".join(_format_fault(fault) for fault in faults)) from None
        if parsed.key_variable(address) is None:
            raise InvalidSettings(
                f"[provider] api_key_env is not set, and {address.host} is not OpenAI; name the "
                'environment variable that holds your key there (or "" to send none)'
            )
        parsed._check_reasoning(address)
        return parsed

    @property
    def extra_body(self) -> dict[str, object]:
        """What every request's body has beside conversation and sampling."""
        asked = {
            "chat_template_kwargs": self.chat_template_kwargs,
            "reasoning_effort": self.reasoning_effort,
        }
        return {name: value for name, value in asked.items() if value}

    def _check_reasoning(self, address: ModelAddress) -> None:
        vendor = address.is_openai or address.is_azure
        if vendor and self.chat_template_kwargs:
            raise InvalidSettings(
                f"[provider] chat_template_kwargs: {address.host} takes none, since its models "
                "show no chat template; remove it, or set reasoning_effort"
            )
        if address.is_openai and self.reasoning_effort and _NO_REASONING.match(address.model):
            raise InvalidSettings(
                f"[provider] reasoning_effort: {address.model} is no reasoning model, so it takes "
                "none; remove it"
            )

    def key_variable(self, address: ModelAddress) -> str | None:
        """The variable with the key for `address`; "" for no key, None if the user must say."""
        if self.api_key_env is not None:
            return self.api_key_env
        if address.is_openai:
            return _DEFAULT_KEY
        return "" if address.is_private else None

    def to_limits(self) -> Limits:
        """The limits in the limiter's terms."""
        return Limits(
            requests_per_minute=self.limits.requests_per_minute,
            tokens_per_minute=self.limits.tokens_per_minute,
            max_concurrent=self.limits.max_concurrent,
            retry_policy=self.to_retry_policy(),
        )

    def to_retry_policy(self) -> RetryPolicy:
        """How long to retry a failing call."""
        return RetryPolicy(attempts=self.max_attempts, give_up_after_s=self.give_up_after_s)


def _format_fault(fault: Mapping[str, object]) -> str:
    location = fault["loc"]
    key = ".".join(map(str, location)) if isinstance(location, tuple) else str(location)
    key = Secrets().scrub(key)
    # pydantic names the key but not the ones that exist.
    if fault["type"] == "extra_forbidden":
        table = LimitSettings if key.startswith("limits.") else OpenAISettings
        return f"[provider] has no key {key!r}; there are: {', '.join(table.model_fields)}"
    if key == "api_key_env":
        return (
            "[provider] api_key_env is not the name of an environment variable (capital letters, "
            "digits and underscores); it takes the variable's name, never the key itself"
        )
    message = str(fault["msg"]).removeprefix("Value error, ")
    return f"[provider] {key} is not usable: {message}; change it or leave it out"
