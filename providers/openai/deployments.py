"""Deployments of tuned models at Azure, through its resource manager.

Azure answers with a tuned model only once it is deployed. A deployment's name follows from the
model, and creating it again under that name changes nothing, so that a run which was killed at any
moment finds what it has created:

    https://learn.microsoft.com/en-us/azure/foundry/openai/how-to/fine-tuning-deploy
    https://learn.microsoft.com/en-us/rest/api/aiservices/accountmanagement/deployments
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import httpx2

from providers.deployments import Deployment
from providers.errors import (
    AuthenticationFailed,
    BadRequest,
    ConnectionLost,
    InvalidSettings,
    Overloaded,
    ProviderError,
    QuotaExhausted,
    TimedOut,
    Unsupported,
)
from providers.limits.retry import Clock, RetryPolicy, Sleep, retry
from providers.openai.errors import classify_refusal, parse_refusal
from providers.openai.management_token import ManagementToken
from providers.openai.settings import HOURLY_USD, DeploymentSettings
from providers.types import Finding

Answers = Callable[[str], Awaitable[bool]]
"""Whether the server of the models knows a deployment by now."""

UNDEPLOYED = "Azure answers with a tuned model only once it is deployed"
DEPLOY_REMEDY = (
    "set subscription and resource_group in [provider.deployment] and let the run deploy them"
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}[A-Za-z0-9]")
_KEPT, _DIGITS = 48, 12
_log = logging.getLogger(__name__)
_BRIEF = RetryPolicy(attempts=3, give_up_after_s=15.0)
_USUAL = RetryPolicy(attempts=12, give_up_after_s=300.0)
# Azure changes one deployment of an account at a time, and answers 409 to any other meanwhile.
_PATIENT = RetryPolicy(attempts=400, give_up_after_s=3600.0, longest_wait_s=30.0)
_TIMEOUT = httpx2.Timeout(60.0, connect=30.0)
_LONGEST_S, _PAUSE_S = 3600.0, 10.0
# "If you created the deployment within the last 5 minutes, please wait a moment and try again."
_KNOWN_AFTER_S = 300.0
_GONE_AFTER_S = 60.0
_FAILED = ("failed", "canceled", "disabled")
_ROLE = "Microsoft.CognitiveServices/accounts/deployments/write"


def name_deployment(artifact: str) -> str:
    """The name under which a tuned model is deployed: its own, cut to what Azure takes.

    >>> name_deployment("gpt-4.1-mini-2025-04-14.ft-0a1b")
    'gpt-4.1-mini-2025-04-14.ft-0a1b'
    >>> len(name_deployment("gpt-4.1-mini-2025-04-14.ft-" + 60 * "0"))
    61
    """
    if _NAME.fullmatch(artifact):
        return artifact
    digest = hashlib.sha256(artifact.encode()).hexdigest()[:_DIGITS]
    kept = re.sub(r"[^A-Za-z0-9._-]+", "-", artifact)[:_KEPT].lstrip("._-")
    return f"{kept}-{digest}"


def explain_undeployed(
    artifacts: Iterable[str], account: str, settings: DeploymentSettings | None = None
) -> str:
    """What the user has to do before Azure answers with these tuned models.

    >>> "--deployment-name m.ft-1 --model-name m.ft-1" in explain_undeployed(["m.ft-1"], "me")
    True
    """
    group = settings.resource_group if settings else "GROUP"
    sku, capacity = (settings.sku, settings.capacity) if settings else ("DeveloperTier", 50)
    commands = "".join(
        f"\n    az cognitiveservices account deployment create -g {group} -n {account} "
        f"--deployment-name {name_deployment(artifact)} --model-name {artifact} --model-version 1 "
        f"--model-format OpenAI --sku-name {sku} --sku-capacity {capacity}"
        for artifact in artifacts
    )
    otherwise = "" if settings else f", or {DEPLOY_REMEDY}"
    return (
        f"{UNDEPLOYED}; deploy those that are missing and start again, which sends nothing twice"
        f"{otherwise}:{commands}"
    )


class Deployments:
    """The deployments of one Azure resource. Raises only errors of `providers.errors`.

    `answers` says whether the server of the models knows a deployment; `sleep` and `clock` are for
    tests.

        deployments = Deployments(settings, "my-resource", answers)
        await deployments.ensure(["gpt-4.1-mini-2025-04-14.ft-0a1b"])
    """

    def __init__(
        self,
        settings: DeploymentSettings,
        account: str,
        answers: Answers,
        *,
        sleep: Sleep = asyncio.sleep,
        clock: Clock = time.monotonic,
    ) -> None:
        self._settings = settings
        self._answers = answers
        self._sleep = sleep
        self._clock = clock
        self._token = ManagementToken(settings)
        self._client = httpx2.AsyncClient(timeout=_TIMEOUT)
        self._lock = asyncio.Lock()
        self._known: set[str] = set()
        self._where = f"resource {account} in group {settings.resource_group}"
        self._url = (
            f"{settings.url.rstrip('/')}/subscriptions/{settings.subscription}/resourceGroups/"
            f"{settings.resource_group}/providers/Microsoft.CognitiveServices/accounts/{account}"
        )

    async def ensure(self, artifacts: Iterable[str]) -> None:
        """Deploy those of the tuned models that are not deployed; returns once all can answer.

        Raises `QuotaExhausted`, `AuthenticationFailed`, `InvalidSettings`, or `Unsupported` with
        what Azure says; `TimedOut` after an hour. Calling it again continues.
        """
        # One at a time: a stage that begins meanwhile waits for the same deployments.
        async with self._lock:
            wanted = {name_deployment(artifact): artifact for artifact in artifacts}
            created = [name for name in sorted(wanted) if await self._request(name, wanted[name])]
            if created:
                _log.warning("%s", self._describe_created(created))
            until = self._clock() + _LONGEST_S
            for name in wanted:
                await self._await_success(name, wanted[name], until)
            known_by = self._clock() + _KNOWN_AFTER_S
            # All of them: an earlier start may have been killed while it waited here.
            for name in sorted(wanted.keys() - self._known):
                while self._clock() < known_by and not await self._answers(name):
                    await self._sleep(_PAUSE_S)
                self._known.add(name)

    async def list_standing(self, artifacts: Iterable[str]) -> list[Deployment]:
        """The deployments that exist of these tuned models, with what they cost by the hour."""
        found = []
        for artifact in artifacts:
            answer = await self._get(name_deployment(artifact))
            # A deployment of that name with another model is not ours.
            if answer is not None and _get_model(answer) == artifact:
                found.append(Deployment(artifact, _get_state(answer), _get_price(answer)))
        return found

    async def delete(self, artifact: str) -> None:
        """Delete the deployment of a tuned model; does nothing if there is none of this model."""
        if not await self.list_standing([artifact]):
            return
        name = name_deployment(artifact)
        response = await self._send("DELETE", f"/deployments/{name}", policy=_PATIENT)
        self._require(response, f"deleting {name}", also=(404,))
        until = self._clock() + _GONE_AFTER_S
        while self._clock() < until and await self._get(name) is not None:
            await self._sleep(_PAUSE_S)

    async def preflight(self) -> list[Finding]:
        """Whether the resource can be reached with the token, and what a deployment costs."""
        try:
            response = await self._send("GET", "/deployments", policy=_BRIEF)
            self._require(response, "listing deployments")
        except ProviderError as error:
            remedy = "correct [provider.deployment], or remove it and deploy tuned models yourself"
            return [Finding("error", f"tuned models cannot be deployed: {error}", remedy)]
        text = f"tuned models will be deployed on {self._where}: {self._describe_fee()}"
        return [Finding("warning" if self._settings.usd_per_hour else "ok", text)]

    async def close(self) -> None:
        await self._client.aclose()

    async def _request(self, name: str, artifact: str) -> bool:
        """Ask for the deployment unless it exists; returns whether it was asked for."""
        found = await self._get(name)
        if found is not None and _get_model(found) != artifact:
            raise InvalidSettings(
                f"deployment {name} on {self._where} is of model {_get_model(found)!r}, not of "
                f"{artifact!r}; delete or rename it, then start again"
            )
        if found is not None and _get_state(found) not in _FAILED:
            return False
        model = {"format": "OpenAI", "name": artifact, "version": "1"}
        sku = {"name": self._settings.sku, "capacity": self._settings.capacity}
        body = {"sku": sku, "properties": {"model": model}}
        response = await self._send("PUT", f"/deployments/{name}", body, policy=_PATIENT)
        self._require(response, f"deploying {artifact}")
        return True

    async def _await_success(self, name: str, artifact: str, until: float) -> None:
        while True:
            found = await self._get(name)
            state = "gone" if found is None else _get_state(found)
            if state == "succeeded":
                return
            if found is None or state in _FAILED:
                raise Unsupported(
                    f"the deployment {name} of {artifact} on {self._where} is {state}; look for "
                    "the reason in Azure's portal, remove it, and start again: nothing is trained "
                    "twice"
                )
            if self._clock() >= until:
                raise TimedOut(
                    f"the deployment {name} is not ready after {_LONGEST_S / 60:.0f} minutes "
                    f"(state {state}); start again to wait for it: nothing is created twice"
                )
            await self._sleep(_PAUSE_S)

    async def _get(self, name: str) -> dict[str, Any] | None:
        response = await self._send("GET", f"/deployments/{name}")
        if response.status_code == 404:
            return None
        self._require(response, f"looking at deployment {name}")
        found = response.json() if _is_json(response) else None
        if not isinstance(found, dict):
            raise Overloaded(f"Azure answered for deployment {name} with something else than JSON")
        return found

    async def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        policy: RetryPolicy = _USUAL,
    ) -> httpx2.Response:
        """The answer to a request, sent again after passing failures and with a new token."""
        renewed = False

        async def attempt() -> httpx2.Response:
            nonlocal renewed
            response = await self._send_once(method, path, body)
            # A token lasts about an hour, and waiting for deployments may take longer.
            if response.status_code == 401 and not renewed:
                renewed = True
                self._token.forget()
                response = await self._send_once(method, path, body)
            if response.status_code in (408, 409, 425, 429) or response.status_code >= 500:
                raise self._classify(response, f"{method} {path}")
            return response

        return await retry(attempt, policy, sleep=self._sleep)

    async def _send_once(
        self, method: str, path: str, body: Mapping[str, object] | None
    ) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {await self._token.read()}"}
        params = {"api-version": self._settings.api_version}
        url = self._url + path
        try:
            return await self._client.request(
                method, url, json=body, params=params, headers=headers
            )
        except httpx2.TimeoutException:
            raise TimedOut(f"{self._settings.url} did not answer in time") from None
        except httpx2.HTTPError as error:
            reason = self._token.secrets.scrub(str(error) or type(error).__name__)
            raise ConnectionLost(f"{self._settings.url} cannot be reached ({reason})") from None

    def _require(self, response: httpx2.Response, what: str, *, also: tuple[int, ...] = ()) -> None:
        if not response.is_success and response.status_code not in also:
            raise self._classify(response, what)

    def _classify(self, response: httpx2.Response, what: str) -> ProviderError:
        """The error that an answer of the resource manager means, with what to do."""
        body = response.json() if _is_json(response) else response.text
        status = response.status_code
        refusal = parse_refusal(status, body, response.headers, self._token.secrets)
        where = f"(status {status}: {refusal.message})"
        if "quota" in refusal.code or ("quota" in refusal.message.lower() and status == 400):
            return QuotaExhausted(
                f"{what}: Azure has no quota left {where}; lower provider.deployment.capacity, "
                "delete deployments, or ask Azure for more"
            )
        if status == 401:
            return AuthenticationFailed(
                f"{what}: the resource manager refuses the token {where}; {self._token.remedy}"
            )
        if status == 403:
            return AuthenticationFailed(
                f"{what}: not allowed {where}; the account needs a role with {_ROLE}"
            )
        if status == 404:
            return InvalidSettings(
                f"{what}: there is no {self._where} in subscription {self._settings.subscription} "
                f"{where}; correct [provider.deployment]"
            )
        error = classify_refusal(refusal, self._where)
        return Unsupported(f"{what}: {error}") if isinstance(error, BadRequest) else error

    def _describe_created(self, names: list[str]) -> str:
        return f"deploying {len(names)} tuned model(s) on {self._where}: {self._describe_fee()}"

    def _describe_fee(self) -> str:
        if not self._settings.usd_per_hour:
            return "no hourly fee; Azure removes them after 24 hours, and the run deploys them anew"
        fee = self._settings.usd_per_hour
        return f"about {fee:.2f} USD an hour each until `society cancel RUN` deletes them"


def _get_model(found: Mapping[str, Any]) -> str | None:
    properties = found.get("properties")
    model = properties.get("model") if isinstance(properties, Mapping) else None
    return str(model.get("name")) if isinstance(model, Mapping) else None


def _get_price(found: Mapping[str, Any]) -> float | None:
    """USD an hour, None for a sort of deployment whose price is not known."""
    sku = found.get("sku")
    name = str(sku.get("name")).lower() if isinstance(sku, Mapping) else ""
    return next((usd for sort, usd in HOURLY_USD.items() if sort.lower() == name), None)


def _get_state(found: Mapping[str, Any]) -> str:
    properties = found.get("properties")
    state = properties.get("provisioningState") if isinstance(properties, Mapping) else None
    # "If no value is returned for provisioningState, the operation finished and succeeded."
    return str(state or "Succeeded").lower()


def _is_json(response: httpx2.Response) -> bool:
    return "json" in response.headers.get("content-type", "")
