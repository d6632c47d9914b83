"""What `[provider]` has for every vendor behind an API: limits, retries, pacing of jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from providers.calling import LISTING_LAG_S
from providers.errors import InvalidSettings
from providers.limits import Limits, RetryPolicy
from providers.limits.concurrency import START
from providers.secrets import Secrets
from providers.validation import suggest_name

Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
VARIABLE = r"^([A-Z_][A-Z0-9_]*)?$"
"""The name of an environment variable, or nothing."""

# Users try these names; the error says where a key belongs instead.
_KEY_SETTINGS = {"api_key", "apikey", "key", "token", "openai_api_key", "admin_api_key"}


class SettingsSection(BaseModel):
    """A table under `[provider]`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class LimitSettings(SettingsSection):
    """How fast to send requests. Without budgets the limiter follows the server's headers."""

    requests_per_minute: Positive | None = None
    """Requests in a minute, if the vendor's limit is not in its headers."""
    tokens_per_minute: Positive | None = None
    """Tokens in a minute: prompts plus the `max_tokens` of the answers."""
    max_concurrent: Annotated[int, Field(ge=1, le=4096)] = 512
    """Requests in flight, up to which the limiter may go. Lower it for a server that answers few at
    a time."""
    start_concurrent: Annotated[int, Field(ge=1, le=4096)] = START
    """Requests in flight at first; they double while none is refused. A server of `[serving]`
    gets 256 at once unless this says otherwise."""


class ConnectionSettings(SettingsSection):
    """The part of the `[provider]` table that all vendors have."""

    timeout_s: Positive = 600.0
    """Seconds for one attempt of one call. Raise it for reasoning models that think for long."""
    limits: LimitSettings = LimitSettings()
    max_attempts: Count = 16
    """How often a failing call is tried at most."""
    give_up_after_s: Positive = 600.0
    """Seconds for which a failing call is tried again. Raise it for servers with long outages."""
    max_parallel_jobs: Count = 6
    """Fine-tuning jobs that run at a time. Many vendors allow only a few."""
    poll_s: Positive = 2.0
    """Seconds between two looks at a job, at least."""
    listing_lag_s: Annotated[float, Field(ge=0.0, le=3600.0)] = LISTING_LAG_S
    """Seconds for which the vendor's list of jobs may not show a new one. If the outcome of a
    submission is unknown, the job is searched for that long before it is submitted again."""

    def to_limits(self) -> Limits:
        """The limits in the limiter's terms."""
        return Limits(
            requests_per_minute=self.limits.requests_per_minute,
            tokens_per_minute=self.limits.tokens_per_minute,
            max_concurrent=self.limits.max_concurrent,
            start_concurrent=self.limits.start_concurrent,
            retry_policy=self.to_retry_policy(),
        )

    def to_retry_policy(self) -> RetryPolicy:
        """How long to retry a failing call."""
        return RetryPolicy(attempts=self.max_attempts, give_up_after_s=self.give_up_after_s)

    def shorten(self, **most: float) -> Self:
        """These settings with no key above its value in `most`.

        settings.shorten(give_up_after_s=15.0, max_attempts=4)
        """
        return self.model_copy(update={n: min(most[n], getattr(self, n)) for n in most})


S = TypeVar("S", bound=ConnectionSettings)


def parse_settings(table: type[S], settings: Mapping[str, object], remedy: str) -> S:
    """The validated settings; raises `InvalidSettings` with the key and what to do.

    Messages do not repeat values, because a value may be a key pasted by mistake; `remedy` says
    where a key belongs.

        parse_settings(GeminiSettings, {"project": "p"}, "use application-default credentials")
    """
    for name in settings:
        if name.lower() in _KEY_SETTINGS:
            raise InvalidSettings(
                f"[provider] {name}: a key does not belong into an experiment file, which is "
                f"stored; remove it, {remedy}"
            )
    try:
        return table.model_validate(dict(settings))
    # pydantic's own message would repeat the value, which may be a key.
    except ValidationError as error:
        faults = error.errors(include_url=False)
        raise InvalidSettings("; ".join(_format_fault(fault, table) for fault in faults)) from None


def _format_fault(fault: Mapping[str, object], table: type[ConnectionSettings]) -> str:
    location = fault["loc"]
    key = ".".join(map(str, location)) if isinstance(location, tuple) else str(location)
    key = Secrets().scrub(key)
    # pydantic names the key but not the ones that exist.
    if fault["type"] == "extra_forbidden":
        names = _find_table(table, key).model_fields
        # The vendor's own keys first: they are the ones that are mistaken for another's.
        own_first = sorted(names, key=lambda name: name in ConnectionSettings.model_fields)
        nearest = suggest_name(key.rpartition(".")[2], names)
        return f"[provider] has no key {key!r}; {nearest}there are: {', '.join(own_first)}"
    if key == "api_key_env":
        return (
            "[provider] api_key_env is not the name of an environment variable (capital letters, "
            "digits and underscores); it takes the variable's name, never the key itself"
        )
    message = str(fault["msg"]).removeprefix("Value error, ")
    return f"[provider] {key} is not usable: {message}; change it or leave it out"


def _find_table(table: type[SettingsSection], key: str) -> type[SettingsSection]:
    """The table that a key such as "limits.max_concurrent" is in."""
    for part in key.split(".")[:-1]:
        annotation = table.model_fields[part].annotation
        for found in (annotation, *get_args(annotation)):
            if isinstance(found, type) and issubclass(found, SettingsSection):
                table = found
    return table
