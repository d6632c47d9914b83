"""Where the server is and how to talk to it: model address, `[provider]` table, secrets.

    openai:gpt-4o-mini-2024-07-18
    openai+https://api.tokenfactory.nebius.com/v1:Qwen/Qwen3-8B
    openai+http://127.0.0.1:8000/v1:ft:gpt-4o:org::id

The URL is what the openai package calls `base_url`. The model is everything after the colon that
follows the URL, and may contain colons and slashes itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from providers.connection_settings import (
    VARIABLE,
    ConnectionSettings,
    Count,
    SettingsSection,
    parse_settings,
)
from providers.errors import InvalidSettings
from providers.secrets import Secrets
from providers.server_address import ServerAddress, parse_server_address

OPENAI_URL = "https://api.openai.com/v1"
ENV_PREFIX = "env:"
"""A header value that starts with this names an environment variable."""

_FORM = "write it as openai:MODEL or openai+URL:MODEL, e.g. openai+http://127.0.0.1:8000/v1:NAME"
# Azure's own endpoints need the key in a header of another name, and list no deployments.
_AZURE = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")

# OpenAI's models from before reasoning models, and those tuned from them.
_NO_REASONING = re.compile(r"(ft:)?(gpt-3|gpt-4|chatgpt|davinci|babbage)", re.IGNORECASE)
_PATH_PART = r"^[A-Za-z0-9][A-Za-z0-9._()-]*$"
_DEFAULT_KEY = "OPENAI_API_KEY"
# A header whose name matches is taken to be a secret, whatever its value looks like.
_SECRET_HEADER = re.compile(r"auth|key|token|secret|cookie|credential|password", re.IGNORECASE)
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class ModelAddress(ServerAddress):
    """A server that speaks OpenAI's API, and one of its models."""

    @property
    def is_openai(self) -> bool:
        """OpenAI itself, including its regional endpoints."""
        return self.host == "openai.com" or self.host.endswith(".openai.com")

    @property
    def is_azure(self) -> bool:
        return self.host.endswith(_AZURE)

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
    found = parse_server_address("openai", target[1:], _FORM)
    return ModelAddress(found.url, _check_model_name(found.model, target))


def _check_model_name(name: str, target: str) -> str:
    if not name or name != name.strip() or any(ord(letter) < 32 for letter in name):
        raise InvalidSettings(f"model address 'openai:{target}' names no model; {_FORM}")
    return name


HOURLY_USD: Mapping[str, float] = {"DeveloperTier": 0.0, "Standard": 1.70, "GlobalStandard": 1.70}
"""The fee of one deployment of a tuned model at Azure, by its sku, whether it is asked or not:
https://learn.microsoft.com/en-us/azure/foundry/openai/how-to/fine-tuning-cost-management, where it
is an example of 2026-03-19, read on 2026-11-30."""


class DeploymentSettings(SettingsSection):
    """The `[provider.deployment]` table: where and how tuned models are deployed at Azure."""

    subscription: Annotated[str, Field(pattern=_PATH_PART)]
    """The Azure subscription that the resource belongs to."""
    resource_group: Annotated[str, Field(pattern=_PATH_PART)]
    """The resource group of the resource."""
    account: Annotated[str, Field(pattern=_PATH_PART)] | None = None
    """The name of the Azure resource; by default the first part of the host in the model
    address."""
    sku: Literal["DeveloperTier", "Standard", "GlobalStandard"] = "DeveloperTier"
    """`DeveloperTier` has no hourly fee, and Azure removes it after 24 hours; the others cost an
    hourly fee until they are deleted."""
    capacity: Count = 50
    """Thousands of tokens per minute, of each deployment."""
    token_env: Annotated[str, Field(pattern=VARIABLE)] = ""
    """The environment variable with a token for the resource manager; `""` asks
    `az account get-access-token`, the command line of Azure."""
    url: Annotated[str, Field(pattern=r"^https?://[^\s?#]+$")] = "https://management.azure.com"
    """The resource manager. Change it for national clouds."""
    api_version: Annotated[str, Field(pattern=_PATH_PART)] = "2024-10-01"
    """The version of the resource manager's API."""

    @property
    def usd_per_hour(self) -> float:
        """The fee of each deployment."""
        return HOURLY_USD[self.sku]


class OpenAISettings(ConnectionSettings):
    """The `[provider]` table for a server that speaks OpenAI's API. It never contains a key."""

    api_key_env: Annotated[str, Field(pattern=VARIABLE)] | None = None
    """The environment variable with the key; `""` sends none. By default OPENAI_API_KEY for OpenAI
    and no key for a server on this machine or in a private network. For any other server it must be
    named, so that a key never reaches the wrong vendor."""
    organization: Annotated[str, Field(min_length=1)] | None = None
    """The organization at OpenAI; by default OPENAI_ORG_ID."""
    project: Annotated[str, Field(min_length=1)] | None = None
    """The project at OpenAI; by default OPENAI_PROJECT_ID."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Sent with every request; a value `env:NAME` is read from the environment."""
    max_tokens_parameter: Literal["max_completion_tokens", "max_tokens"] | None = None
    """How the server calls the limit of an answer. By default what a built-in table and refusals of
    the server say, as for the next three keys; set it where they get it wrong."""
    temperature: bool | None = None
    """Whether the model accepts a temperature; set it if requests with it are refused."""
    top_p: bool | None = None
    """Whether the model accepts top_p; set it if requests with it are refused."""
    seed: bool | None = None
    """Whether the model accepts a seed; set it if requests with it are refused."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """For servers such as vLLM and SGLang: values for variables of the model's chat template, such
    as `{enable_thinking = false}`."""
    reasoning_effort: Annotated[str, Field(min_length=1)] | None = None
    """How much a reasoning model thinks, such as `low`."""
    score: Literal["vllm"] | None = None
    """Set it if the server is vLLM, which returns log-probabilities of a given text; the measures
    `nll` and `kl` need them."""
    finetune: bool = True
    """Whether the server has fine-tuning jobs."""
    deployment: DeploymentSettings | None = None

    @field_validator("headers")
    @classmethod
    def _check_headers(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if _HEADER_NAME.fullmatch(name) is None:
                raise ValueError("a header's name has letters, digits and dashes only")
            variable = value.removeprefix(ENV_PREFIX)
            if variable != value:
                if not variable or re.fullmatch(VARIABLE, variable) is None:
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
        """The validated settings; raises `InvalidSettings` with the key and the remedy."""
        remedy = "put the key into an environment variable and name that as api_key_env"
        parsed = parse_settings(cls, settings, remedy)
        if parsed.key_variable(address) is None:
            raise InvalidSettings(
                f"[provider] api_key_env is not set, and {address.host} is not OpenAI; name the "
                'environment variable that holds your key there (or "" to send none)'
            )
        parsed._check_reasoning(address)
        parsed._check_deployment(address)
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

    def _check_deployment(self, address: ModelAddress) -> None:
        if self.deployment is None:
            return
        if address.is_openai:
            raise InvalidSettings(
                f"[provider.deployment] is for Azure, and {address.host} answers with tuned models "
                "without a deployment; remove it"
            )
        if self.deployment.account is None and not address.is_azure:
            raise InvalidSettings(
                f"[provider.deployment] account is not set, and {address.host} is no host of Azure "
                "that begins with it; write the name of your Azure resource"
            )

    def key_variable(self, address: ModelAddress) -> str | None:
        """The variable with the key for `address`; "" for no key, None if the user must say."""
        if self.api_key_env is not None:
            return self.api_key_env
        if address.is_openai:
            return _DEFAULT_KEY
        return "" if address.is_private else None
