"""On-demand deployments of tuned models: created once, awaited, deleted on request.

https://docs.aws.amazon.com/bedrock/latest/userguide/deploy-custom-model-on-demand.html. A
deployment's name follows from its model, and names are unique in the account, so that no model is
deployed twice. A deployment has no hourly fee: its answers are billed per token. What costs by the
month is the stored model itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from providers.bedrock.client import BedrockConnection
from providers.bedrock.errors import ResourceMissing
from providers.bedrock.settings import BedrockSettings
from providers.calling import Caller
from providers.deployments import Deployment
from providers.errors import BadRequest, ModelNotFound, RunError
from providers.gathering import gather_or_cancel

PREFIX = "society-"

_log = logging.getLogger(__name__)


class CustomDeployments:
    """The deployments of one connection. `waits`: whether missing ones are created and awaited.

    deployments = CustomDeployments(connection, settings, waits=True)
    await deployments.ensure([model.artifact])
    arn = await deployments.find_arn(model.artifact)
    """

    def __init__(
        self, connection: BedrockConnection, settings: BedrockSettings, *, waits: bool
    ) -> None:
        self._connection = connection
        self._caller: Caller = connection.make_caller()
        self._settings = settings
        self._waits = waits
        self._arns: dict[str, str] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def ensure(self, models: Iterable[str]) -> None:
        """Return once every model (the ARN of a custom model) is deployed.

        Raises `RunError` if a deployment fails or takes longer than [provider] deploy_within_s, and
        `ModelNotFound` for a missing one if this connection does not wait.
        """
        unknown = sorted(set(models) - self._arns.keys())
        await gather_or_cancel([self._ensure(model) for model in unknown])

    async def find_arn(self, model: str) -> str:
        """What requests to a model have to name: the ARN of its deployment."""
        # Many requests come at once, and one of them has to look.
        async with self._locks.setdefault(model, asyncio.Lock()):
            if model not in self._arns:
                await self._ensure(model)
        return self._arns[model]

    async def list_standing(self, models: Iterable[str]) -> Sequence[Deployment]:
        """The deployments of these models. They cost nothing by the hour."""
        unique = sorted(set(models))
        found = await gather_or_cancel([self._get(name_deployment(model)) for model in unique])
        return [
            Deployment(model, str(each["status"]), usd_per_hour=0.0)
            for model, each in zip(unique, found, strict=True)
            if each is not None
        ]

    async def delete(self, model: str) -> None:
        """Delete a model's deployment; does nothing if it has none."""
        self._arns.pop(model, None)
        with suppress(ResourceMissing):
            await self._delete(name_deployment(model))

    async def _ensure(self, model: str) -> None:
        name = name_deployment(model)
        found = await self._get(name)
        # A failed one does not mend itself, and keeps the name.
        if found is not None and found["status"] == "Failed" and self._waits:
            _log.warning("deployment %s had failed; it is made anew", name)
            await self._delete(name)
            found = None
        if found is None or found["status"] != "Active":
            if not self._waits:
                raise ModelNotFound(
                    f"tuned model {model} has no deployment that answers; start `society run` "
                    "again, which deploys the models of the run"
                )
            found = await self._create_and_await(model, name, found)
        self._arns[model] = str(found["customModelDeploymentArn"])

    async def _create_and_await(
        self, model: str, name: str, found: dict[str, Any] | None
    ) -> dict[str, Any]:
        if found is None:
            await self._create(model, name)
            _log.info("deployment %s of %s: billed per token, without an hourly fee", name, model)
        _log.warning(
            "waiting for deployment %s: at most %.0f s", name, self._settings.deploy_within_s
        )
        until = time.monotonic() + self._settings.deploy_within_s
        while time.monotonic() < until:
            found = await self._get(name)
            if found is not None and found["status"] == "Active":
                return found
            if found is not None and found["status"] == "Failed":
                reason = self._caller.scrub(str(found.get("failureMessage") or "no reason given"))
                raise RunError(
                    f"deployment {name} of {model} failed: {reason}; remove the cause and start "
                    "again, which makes it anew"
                )
            await self._caller.sleep(self._settings.poll_s)
        raise RunError(
            f"deployment {name} of {model} is not ready after "
            f"{self._settings.deploy_within_s:.0f} s; start again later, or raise deploy_within_s "
            "in [provider]"
        )

    async def _create(self, model: str, name: str) -> None:
        connection = self._connection
        try:
            await self._caller.call_with_retry(
                lambda: connection.call(
                    connection.control.create_custom_model_deployment,
                    modelDeploymentName=name,
                    modelArn=model,
                )
            )
        except BadRequest as error:
            # An earlier request whose answer was lost may have created it.
            if "exist" not in str(error) and await self._get(name) is None:
                raise

    async def _get(self, name: str) -> dict[str, Any] | None:
        connection = self._connection
        try:
            return await self._caller.call_with_retry(
                lambda: connection.call(
                    connection.control.get_custom_model_deployment,
                    customModelDeploymentIdentifier=name,
                )
            )
        except ResourceMissing:
            return None

    async def _delete(self, name: str) -> None:
        connection = self._connection
        await self._caller.call_with_retry(
            lambda: connection.call(
                connection.control.delete_custom_model_deployment,
                customModelDeploymentIdentifier=name,
            )
        )


def name_deployment(model: str) -> str:
    """The name of a custom model's deployment: unique, since it ends with the model's own id.

    >>> name_deployment("arn:aws:bedrock:us-east-1:1:custom-model/amazon.nova-micro-v1:0/abc123")
    'society-abc123'
    """
    return f"{PREFIX}{model.rsplit('/', 1)[-1]}"
