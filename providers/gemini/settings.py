"""The `[provider]` table for Gemini. It never contains a key or a token.

Two ways lead to the models. Vertex AI (today "Gemini Enterprise Agent Platform") takes Google
Cloud's application-default credentials and has tuning jobs. The Gemini Developer API takes a key,
which `api_key_env` names, and has none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator

from providers.connection_settings import VARIABLE, ConnectionSettings, parse_settings
from providers.errors import InvalidSettings

HOST = "aiplatform.googleapis.com"
GLOBAL = "global"
DEFAULT_REGION = "us-central1"

_NAME = Field(pattern=r"^[a-z0-9][a-z0-9._:-]*$")
_KEY_REMEDY = (
    "and use application-default credentials (`gcloud auth application-default login`), or put the "
    "key into an environment variable and name that as api_key_env"
)
# A token must not travel unencrypted, except to a stand-in on this machine.
_ENDPOINT = re.compile(r"https://[^\s/@]+(/\S*)?|http://(127\.0\.0\.1|localhost)(:\d+)?(/\S*)?")
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/@-]*")


class GeminiSettings(ConnectionSettings):
    """How to reach Gemini, and how much it thinks."""

    project: Annotated[str, _NAME] | None = None
    """The Google Cloud project; by default GOOGLE_CLOUD_PROJECT, or that of the credentials."""
    location: Annotated[str, _NAME] | None = None
    """Where the base model answers, `global` or a region such as `europe-west4`; by default
    GOOGLE_CLOUD_LOCATION, or `us-central1`."""
    tuning_location: Annotated[str, _NAME] | None = None
    """The region of jobs and tuned models; by default `location`, or `us-central1` if that is
    `global`, which has no jobs."""
    bucket: Annotated[str, _NAME] | None = None
    """The Cloud Storage bucket for training data, in the region of the jobs."""
    api_key_env: Annotated[str, Field(pattern=VARIABLE, min_length=1)] | None = None
    """The environment variable with a key of the Gemini Developer API, for chat only."""
    thinking_budget: Annotated[int, Field(ge=-1)] | None = None
    """Most tokens of thought; 0 switches thinking off, -1 lets the model choose. Google advises 0
    or the lowest value for tuned models."""
    thinking_level: Literal["minimal", "low", "medium", "high"] | None = None
    """How much the model thinks, for models that take no budget."""
    checkpoints: bool = False
    """Whether a job keeps the models of the epochs before the last, too. Each gets an endpoint of
    its own."""
    endpoint: str | None = None
    """Another address of Vertex AI, such as that of Private Service Connect."""
    storage_endpoint: str = "https://storage.googleapis.com"
    """The address of Cloud Storage."""

    @field_validator("bucket", mode="before")
    @classmethod
    def _strip_scheme(cls, bucket: object) -> object:
        return bucket.removeprefix("gs://").rstrip("/") if isinstance(bucket, str) else bucket

    @field_validator("endpoint", "storage_endpoint")
    @classmethod
    def _check_endpoint(cls, url: str | None) -> str | None:
        if url is not None and _ENDPOINT.fullmatch(url) is None:
            raise ValueError("write an https URL (http is for this machine only)")
        return url.rstrip("/") if url else url

    @classmethod
    def parse(cls, settings: Mapping[str, object]) -> GeminiSettings:
        """The validated settings; raises `InvalidSettings` with the key and the remedy."""
        parsed = parse_settings(cls, settings, _KEY_REMEDY)
        if parsed.thinking_budget is not None and parsed.thinking_level is not None:
            raise InvalidSettings(
                "[provider] thinking_budget and thinking_level exclude each other; remove one"
            )
        given = [n for n in _OF_VERTEX if getattr(parsed, n) is not None]
        if parsed.api_key_env and given:
            raise InvalidSettings(
                f"[provider] {given[0]} belongs to Vertex AI, and api_key_env to the Gemini "
                "Developer API; remove one of them"
            )
        if parsed.jobs_at == GLOBAL:
            raise InvalidSettings(
                "[provider] tuning_location = 'global' has no tuning jobs; name a region, such as "
                f"{DEFAULT_REGION!r}"
            )
        return parsed

    @property
    def on_vertex(self) -> bool:
        """Whether the models are asked on Vertex AI, not at the Developer API."""
        return self.api_key_env is None

    @property
    def answers_at(self) -> str:
        """The location of the base model."""
        return self.location or os.environ.get("GOOGLE_CLOUD_LOCATION") or DEFAULT_REGION

    @property
    def jobs_at(self) -> str:
        """The region of jobs and tuned models."""
        if self.tuning_location is not None:
            return self.tuning_location
        return DEFAULT_REGION if self.answers_at == GLOBAL else self.answers_at


_OF_VERTEX = ("project", "location", "tuning_location", "bucket")


def check_model(target: str) -> str:
    """The model's name; raises `InvalidSettings` for what cannot be one.

    >>> check_model("gemini-3.5-flash")
    'gemini-3.5-flash'
    """
    if _MODEL.fullmatch(target) is None or ".." in target:
        raise InvalidSettings(
            f"model address 'gemini:{target}' names no model; write it as gemini:MODEL, e.g. "
            "gemini:gemini-3.5-flash"
        )
    return target


def find_location(name: str, settings: GeminiSettings) -> str:
    """The location of a model or a job: of tuned models and jobs the name has it.

    >>> find_location("projects/p/locations/europe-west4/endpoints/1", GeminiSettings())
    'europe-west4'
    """
    parts = name.split("/")
    if len(parts) > 3 and parts[0] == "projects" and parts[2] == "locations":
        return parts[3]
    return settings.answers_at
