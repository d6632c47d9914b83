"""The provider for models at Amazon Bedrock."""

from __future__ import annotations

from collections.abc import Sequence

from providers.base import Deployment, Provider
from providers.bedrock.chat import ConverseChat, find_refused_sampling
from providers.bedrock.client import BedrockConnection
from providers.bedrock.deployments import CustomDeployments
from providers.bedrock.job_format import find_unsupported
from providers.bedrock.jobs import CustomizationJobs
from providers.bedrock.nova import MODELS, find_model
from providers.bedrock.preflight import preflight_bedrock
from providers.bedrock.settings import BedrockSettings
from providers.errors import InvalidSettings, Unsupported
from providers.limits import get_limiter
from providers.types import (
    Capabilities,
    Completion,
    Finding,
    FinetuneSpec,
    Hyperparameters,
    JobHandle,
    JobState,
    ModelRef,
    Need,
    Request,
    Sampling,
)

_PREFLIGHT = {"max_attempts": 4, "give_up_after_s": 15.0, "timeout_s": 15.0}


class BedrockProvider(Provider):
    """One model at Bedrock and the models tuned from it; see `providers.base.Provider`.

    `ModelRef.artifact` is the ARN of a custom model. It answers through an on-demand deployment,
    which `load_adapters` creates. Credentials are read at the first call.

        provider = registry.connect("bedrock:amazon.nova-micro-v1:0", settings, Path("runs/r"))
        completion = await provider.complete(request)
    """

    def __init__(self, model: str, settings: BedrockSettings, *, waits: bool = True) -> None:
        self._model = model
        self._nova = find_model(model)
        self._settings = settings
        self._waits = waits
        self._base = ModelRef(f"bedrock:{model}", f"bedrock:{model}")
        self._connection: BedrockConnection | None = None
        self._chat: ConverseChat | None = None
        self._jobs: CustomizationJobs | None = None
        self._deployments: CustomDeployments | None = None

    @property
    def base(self) -> ModelRef:
        return self._base

    @property
    def capabilities(self) -> Capabilities:
        nova = self._nova
        return Capabilities(
            finetune=nova is not None,
            min_examples=1 if nova is None else nova.min_examples,
            max_parallel_jobs=self._settings.max_parallel_jobs,
            poll_s=self._settings.poll_s,
            validation=nova is not None and nova.validation,
            listing_lag_s=self._settings.listing_lag_s,
            deployments=nova is not None,
            delete_model=nova is not None,
            context_answers=False,
        )

    async def complete(self, request: Request) -> Completion:
        artifact = request.model.artifact
        model_id = self._model
        if artifact is not None:
            model_id = await self._get_deployments().find_arn(artifact)
        return await self._get_chat().complete(request, model_id)

    def validate_sampling(self, sampling: Sampling) -> Sequence[str]:
        return find_refused_sampling(sampling, self._model)

    def validate_hyperparameters(self, hyperparameters: Hyperparameters) -> Sequence[str]:
        return find_unsupported(hyperparameters)

    async def prepare_tuning(self, hyperparameters: Hyperparameters) -> None:
        if missing := self._settings.missing_for_jobs:
            raise InvalidSettings("; ".join(missing))

    async def submit(self, spec: FinetuneSpec) -> JobHandle:
        return await self._get_jobs().submit(spec)

    async def find(self, spec: FinetuneSpec) -> JobHandle | None:
        return await self._get_jobs().find(spec)

    async def poll(self, handle: JobHandle) -> JobState:
        return await self._get_jobs().poll(handle)

    async def cancel(self, handle: JobHandle) -> None:
        await self._get_jobs().cancel(handle)

    async def load_adapters(self, models: Sequence[ModelRef]) -> None:
        """Deploy these tuned models and wait until they answer; see `CustomDeployments.ensure`.

        Deployments of other models stay, since they cost nothing while they are not asked.
        """
        tuned = [model.artifact for model in models if model.artifact is not None]
        if tuned:
            await self._get_deployments().ensure(tuned)

    async def delete_model(self, model: ModelRef) -> None:
        """Delete a custom model, which costs by the month while it is stored."""
        if model.artifact is None:
            raise self._make_unsupported("is the base model; only tuned models are deleted")
        await self._get_jobs().delete_model(model.artifact)

    async def list_deployments(self, models: Sequence[ModelRef]) -> Sequence[Deployment]:
        tuned = [model.artifact for model in models if model.artifact is not None]
        return await self._get_deployments().list_standing(tuned)

    async def delete_deployment(self, deployment: Deployment) -> None:
        await self._get_deployments().delete(deployment.artifact)

    async def preflight(self, need: Need) -> Sequence[Finding]:
        """See `Provider.preflight`: describes and lists only."""
        # The user is waiting at the terminal, so an unreachable service is reported soon.
        settings = self._settings.shorten(**_PREFLIGHT)
        opened: list[BedrockConnection] = []

        def connect() -> BedrockConnection:
            opened.append(BedrockConnection(settings, self._model))
            return opened[-1]

        try:
            return await preflight_bedrock(
                connect, self._model, self._settings, self.capabilities, need
            )
        finally:
            for connection in opened:
                await connection.close()

    def with_deadline(self, give_up_after_s: float) -> BedrockProvider:
        settings = self._settings.shorten(give_up_after_s=give_up_after_s)
        return BedrockProvider(self._model, settings, waits=False)

    async def close(self) -> None:
        """Close the connection. Jobs and deployments stay."""
        connection = self._connection
        # Forgotten first: a later call opens a new connection even if closing this one fails.
        self._connection = self._chat = self._jobs = self._deployments = None
        if connection is not None:
            await connection.close()

    def _connect(self) -> BedrockConnection:
        if self._connection is None:
            self._connection = BedrockConnection(self._settings, self._model)
        return self._connection

    def _get_chat(self) -> ConverseChat:
        if self._chat is None:
            connection = self._connect()
            limiter = get_limiter(connection.account, self._model, self._settings.to_limits())
            self._chat = ConverseChat(connection, self._settings, limiter, self._model)
        return self._chat

    def _get_jobs(self) -> CustomizationJobs:
        if self._jobs is None:
            if self._nova is None:
                names = ", ".join(model.chat_id for model in MODELS)
                raise Unsupported(
                    f"{self._base.address} cannot be tuned here; take one of: {names}, or set "
                    "iterations = 0"
                )
            self._jobs = CustomizationJobs(
                self._connect(), self._settings, self._nova, self._base.address
            )
        return self._jobs

    def _get_deployments(self) -> CustomDeployments:
        if self._deployments is None:
            self._deployments = CustomDeployments(
                self._connect(), self._settings, waits=self._waits
            )
        return self._deployments
