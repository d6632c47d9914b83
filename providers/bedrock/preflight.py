"""What can be known about a region, a model, a role and a bucket before anything is spent.

Everything here only describes and lists. What the credentials may not look at gives a warning, not
an error: many may ask a model and describe nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from providers.base import check_capabilities
from providers.bedrock.client import BedrockConnection
from providers.bedrock.errors import ResourceMissing
from providers.bedrock.nova import MODELS, READ_ON, RESERVED, find_model
from providers.bedrock.settings import BedrockSettings
from providers.calling import Caller
from providers.errors import (
    AuthenticationFailed,
    BadRequest,
    InvalidSettings,
    ProviderError,
    RetryableError,
)
from providers.preflight import label_findings
from providers.types import Capabilities, Finding, Need

_ASK_LATER = "look again with `society doctor`"
_CONSOLE = "request access to it in the Bedrock console, under Model access"


async def preflight_bedrock(
    connect: Callable[[], BedrockConnection],
    model: str,
    settings: BedrockSettings,
    capabilities: Capabilities,
    need: Need,
) -> list[Finding]:
    """Every finding about asking and tuning `model`, including the good ones."""
    try:
        connection = connect()
    except ProviderError as error:
        return [Finding("error", str(error), "nothing else could be checked", "server")]
    checks = _BedrockChecks(connection, model, settings, need)
    findings: list[Finding] = []
    if not need.skip >= {"server", "model", "ending"}:
        findings += await checks.check_model()
        if any(found.check == "server" and found.level == "error" for found in findings):
            return findings
    findings += label_findings("sampling", check_capabilities(capabilities, need))
    if need.batches:
        text = "Bedrock has no batches here"
        findings.append(Finding("error", text, "set evaluation.batch = false", "batches"))
    if need.finetune and "fine-tuning" not in need.skip:
        findings += label_findings("fine-tuning", await checks.check_jobs())
    if need.finetune and "recipe" not in need.skip:
        findings += label_findings("recipe", check_prompts(need))
    return findings


class _BedrockChecks:
    def __init__(
        self, connection: BedrockConnection, model: str, settings: BedrockSettings, need: Need
    ) -> None:
        self._connection = connection
        self._caller: Caller = connection.make_caller()
        self._model = model
        self._settings = settings
        self._need = need

    async def check_model(self) -> list[Finding]:
        """Whether credentials, region and model are right, and when the model ends."""
        control, region = self._connection.control, self._connection.region
        known = find_model(self._model)
        # A profile has no description of its own end; the model behind it has.
        name = known.chat_id if known is not None else self._model
        try:
            answer = await self._ask(control.get_foundation_model, modelIdentifier=name)
        except (ResourceMissing, BadRequest) as error:
            text = f"region {region} does not have {name}: {error}"
            remedy = "correct the model address, or take another region in [provider]"
            return [Finding("error", text, remedy, "model")]
        except ProviderError as error:
            return [_judge(error, f"whether {region} has {name}")]
        details = answer.get("modelDetails") or {}
        findings = [
            Finding("ok", f"AWS accepts the credentials in {region}", check="server"),
            Finding("ok", f"model {name} is there", check="model"),
        ]
        findings += _find_end(name, details.get("modelLifecycle") or {}, self._need)
        kinds = details.get("inferenceTypesSupported") or []
        if name == self._model and kinds and "ON_DEMAND" not in kinds:
            text = f"{name} is answered through an inference profile only"
            findings.append(Finding("error", text, f"write bedrock:us.{name}", "model"))
        return [*findings, *await self._check_access(name)]

    async def check_jobs(self) -> list[Finding]:
        """Whether jobs can be created: model, region, permissions, role and bucket."""
        model = find_model(self._model)
        if model is None:
            names = ", ".join(each.chat_id for each in MODELS)
            text = f"{self._model} cannot be tuned here"
            return [Finding("error", text, f"take one of: {names}")]
        findings = [
            Finding("error", text, "write it into [provider]")
            for text in self._settings.missing_for_jobs
        ]
        control, region = self._connection.control, self._connection.region
        try:
            answer = await self._ask(control.get_foundation_model, modelIdentifier=model.tuning_id)
            kinds = (answer.get("modelDetails") or {}).get("customizationsSupported") or []
            offered = "FINE_TUNING" in kinds
        except (ResourceMissing, BadRequest):
            offered = False
        except ProviderError as error:
            findings.append(_judge(error, f"whether {region} tunes {model.tuning_id}"))
            offered = True
        if not offered:
            where = ", ".join(model.regions)
            text = f"region {region} has no fine-tuning of {model.tuning_id}"
            remedy = f"set region in [provider]; as read on {READ_ON} these have it: {where}"
            findings.append(Finding("error", text, remedy))
        findings += await self._check_listing()
        if self._settings.bucket is not None:
            findings.append(await self._check_bucket())
        if self._settings.role_arn is not None:
            text = f"jobs will run as {self._settings.role_arn} (not looked at)"
            findings.append(Finding("ok", text))
        return findings

    async def _check_access(self, name: str) -> list[Finding]:
        """Whether the account may ask the model."""
        control = self._connection.control
        try:
            found = await self._ask(control.get_foundation_model_availability, modelId=name)
        # Not every set of permissions has this one, and the first call shows the same.
        except ProviderError:
            return []
        wanted = {
            "authorizationStatus": "AUTHORIZED",
            "entitlementAvailability": "AVAILABLE",
            "regionAvailability": "AVAILABLE",
        }
        wrong = [f"{key} is {found[key]}" for key, good in wanted.items() if found[key] != good]
        if not wrong:
            return []
        text = f"the account may not ask {name}: {', '.join(wrong)}"
        return [Finding("error", text, _CONSOLE, "model")]

    async def _check_listing(self) -> list[Finding]:
        control = self._connection.control
        try:
            await self._ask(control.list_model_customization_jobs, maxResults=1)
        except ProviderError as error:
            return [_judge(error, "whether jobs can be created")]
        return [Finding("ok", "customization jobs can be listed")]

    async def _check_bucket(self) -> Finding:
        connection, name = self._connection, self._settings.bucket_name
        try:
            found = await self._ask(connection.storage.head_bucket, Bucket=name)
        except (ResourceMissing, BadRequest, InvalidSettings) as error:
            text = f"bucket {name} is not there: {error}"
            return Finding("error", text, "correct bucket in [provider], or create it")
        except ProviderError as error:
            return _judge(error, f"bucket {name}")
        region = found.get("BucketRegion") or connection.region
        if region != connection.region:
            text = f"bucket {name} is in {region}, and jobs run in {connection.region}"
            return Finding("error", text, "take a bucket of the same region")
        return Finding("ok", f"bucket {name} can be reached")

    async def _ask(self, operation: Callable[..., Any], **parameters: object) -> dict[str, Any]:
        return await self._caller.call_with_retry(
            lambda: self._connection.call(operation, **parameters)
        )


def check_prompts(need: Need) -> Iterator[Finding]:
    """Whether the run's prompts have a text that makes every job fail."""
    texts = {message.content for messages in need.conversations for message in messages}
    for word in RESERVED:
        if any(word.lower() in text.lower() for text in texts):
            yield Finding(
                "error",
                f"the prompts contain {word!r}, and Nova's jobs refuse data with it",
                "change them with [prompts], society.system_prompt or society.personas",
            )


def _judge(error: ProviderError, what: str) -> Finding:
    """What it means that something cannot be looked at."""
    if isinstance(error, AuthenticationFailed) and "denies access" in str(error):
        return Finding("warning", f"{what} cannot be checked: {error}", "", "model")
    if isinstance(error, RetryableError):
        return Finding("warning", f"{what} cannot be checked now: {error}", _ASK_LATER, "model")
    return Finding("error", str(error), "nothing else could be checked", "server")


def _find_end(name: str, cycle: Mapping[str, Any], need: Need) -> Iterator[Finding]:
    ends = cycle.get("endOfLifeTime")
    if isinstance(ends, datetime):
        moment = ends if ends.tzinfo else ends.replace(tzinfo=UTC)
        last = need.ends_at if need.ends_at.tzinfo else need.ends_at.replace(tzinfo=UTC)
        text = f"{name} ends on {moment:%Y-%m-%d}, and so do the models tuned from it"
        if moment <= last:
            yield Finding("error", text, "choose a newer model", "ending")
        else:
            yield Finding("warning", text, check="ending")
    elif cycle.get("status") == "LEGACY":
        yield Finding("warning", f"{name} is deprecated (LEGACY)", "choose a newer model", "ending")
