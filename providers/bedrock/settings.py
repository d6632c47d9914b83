"""Which model, and how to talk to Bedrock: model address and `[provider]` table.

    bedrock:amazon.nova-micro-v1:0
    bedrock:us.amazon.nova-2-lite-v1:0

The model is what Converse takes as `modelId`: a model, or an inference profile. Credentials come
from the usual chain of AWS (environment, profile, role) and are never part of the settings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from providers.connection_settings import (
    ConnectionSettings,
    LimitSettings,
    Positive,
    SettingsSection,
)
from providers.errors import InvalidSettings
from providers.validation import format_errors

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]*")
_BUCKET = r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._-]+)*/?$"
_ROLE = r"^arn:aws(-[^:]+)?:iam::[0-9]{12}:role/.+$"
_REGION = r"^[a-z]{2,4}(-[a-z]+)+-\d$"
_GUARDRAIL = r"^([a-z0-9]+|arn:aws(-[^:]+)?:bedrock:[a-z0-9-]{1,20}:[0-9]{12}:guardrail/[a-z0-9]+)$"
# Users try these names; the error says where credentials belong instead.
_CREDENTIALS = re.compile(r"key|secret|token|credential|password", re.IGNORECASE)
# Each of them is the value of another key that a user may have pasted a credential into.
_PASTED = re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{12,}")


class BedrockLimits(LimitSettings):
    """How fast to send requests; each of those in flight takes a thread."""

    max_concurrent: Annotated[int, Field(ge=1, le=512)] = 64
    """Requests in flight, up to which the limiter may go; each takes a thread."""


class BedrockSettings(ConnectionSettings):
    """The `[provider]` table of a model at Bedrock. It never contains a credential."""

    region: Annotated[str, Field(pattern=_REGION)] | None = None
    """Such as `us-east-1`; by default AWS_REGION, AWS_DEFAULT_REGION or the profile's."""
    profile: Annotated[str, Field(min_length=1)] | None = None
    """A profile of ~/.aws/config; by default AWS_PROFILE, or none."""
    role_arn: Annotated[str, Field(pattern=_ROLE)] | None = None
    """The role that Bedrock assumes to read the training data and to write its results."""
    bucket: Annotated[str, Field(pattern=_BUCKET)] | None = None
    """`BUCKET` or `BUCKET/PREFIX` in the same region, for training data and results."""
    endpoint_url: Annotated[str, Field(pattern=r"^https?://[^\s@]+$")] | None = None
    """In place of AWS's own endpoints, such as that of a VPC."""
    guardrail: Annotated[str, Field(pattern=_GUARDRAIL)] | None = None
    """A guardrail that every request passes."""
    guardrail_version: Annotated[str, Field(pattern=r"^([1-9][0-9]{0,7}|DRAFT)$")] | None = None
    """The guardrail's version, such as `1`."""
    reasoning_effort: Literal["low", "medium"] | None = None
    """How much a model of the Nova 2 family thinks before it answers; by default it does not."""
    timeout_s: Positive = 300.0
    """Seconds for one attempt of one call."""
    limits: BedrockLimits = BedrockLimits()
    poll_s: Positive = 30.0
    """Seconds between two looks at a job or a deployment, at least."""
    deploy_within_s: Positive = 3600.0
    """Seconds that a deployment may take until the run gives up."""
    listing_lag_s: Annotated[float, Field(ge=0.0, le=3600.0)] = 10.0
    """Seconds for which the list of jobs may not show a new one, as for other vendors."""

    @model_validator(mode="after")
    def _check_guardrail(self) -> BedrockSettings:
        if (self.guardrail is None) != (self.guardrail_version is None):
            raise ValueError(
                "[provider] guardrail and guardrail_version belong together; set both, such as "
                '"abc123def456" and "1", or none'
            )
        return self

    @classmethod
    def parse(cls, settings: Mapping[str, object]) -> BedrockSettings:
        """The validated settings; raises `InvalidSettings` with the key and the remedy."""
        for name, value in settings.items():
            unknown = name not in cls.model_fields
            if (unknown and _CREDENTIALS.search(name)) or _PASTED.search(str(value)):
                raise InvalidSettings(
                    f"[provider] {name}: a credential does not belong into an experiment file, "
                    "which is stored; remove it, and use AWS's environment variables, a profile "
                    '(profile = "NAME") or a role'
                )
        if settings.get("reasoning_effort") == "high":
            raise InvalidSettings(
                "[provider] reasoning_effort = 'high': Amazon takes it only without temperature, "
                "top_p and a limit of tokens, so nothing would bound what an answer costs; write "
                '"medium" or "low"'
            )
        try:
            return cls.model_validate(dict(settings))
        except ValidationError as error:
            below = any(len(fault["loc"]) > 1 for fault in error.errors(include_url=False))
            table: type[SettingsSection] = BedrockLimits if below else cls
            known = tuple(table.model_fields)
            # Without the value, which may be a credential pasted by mistake.
            texts = {
                "extra_forbidden": "{key}: unknown key; {nearest}there are: " + ", ".join(known),
                "other": "{key} is not usable: {problem}; change it or leave it out",
            }
            raise InvalidSettings(
                "; ".join(format_errors(error, texts, "[provider] ", known))
            ) from None

    @property
    def bucket_name(self) -> str:
        """The bucket without its prefix; "" without a bucket."""
        return (self.bucket or "").partition("/")[0]

    @property
    def key_prefix(self) -> str:
        """What every object's key begins with: "" or "PREFIX/"."""
        prefix = (self.bucket or "").partition("/")[2].strip("/")
        return f"{prefix}/" if prefix else ""

    @property
    def missing_for_jobs(self) -> tuple[str, ...]:
        """The settings that jobs need and that are not set, each with its remedy."""
        wanted = {
            "role_arn": "the role that Bedrock assumes, arn:aws:iam::ACCOUNT:role/NAME",
            "bucket": 'a bucket in the same region, "NAME" or "NAME/PREFIX"',
        }
        return tuple(
            f"[provider] {name} is not set, and customization jobs need it: {what}"
            for name, what in wanted.items()
            if getattr(self, name) is None
        )


def parse_model(target: str) -> str:
    """The model of an address, such as "amazon.nova-micro-v1:0"; raises `InvalidSettings`."""
    if _MODEL.fullmatch(target) is None:
        raise InvalidSettings(
            f"model address 'bedrock:{target}' names no model; write it as bedrock:MODEL, e.g. "
            "bedrock:amazon.nova-micro-v1:0"
        )
    return target
