"""The provider for models behind OpenAI's API or one like it."""

from __future__ import annotations

from collections.abc import Sequence

from providers.base import AdapterServer, BatchClient, BatchRecords, Deployment, Provider
from providers.calling import Caller
from providers.errors import ModelNotFound, ProviderError, Unsupported
from providers.limits import get_limiter
from providers.openai import logprobs
from providers.openai.calling import make_caller
from providers.openai.chat import Chat
from providers.openai.client import Connection
from providers.openai.deployments import (
    DEPLOY_REMEDY,
    UNDEPLOYED,
    Deployments,
    explain_undeployed,
)
from providers.openai.job_format import OBJECTIVES, find_unsupported
from providers.openai.jobs import FinetuningJobs
from providers.openai.models import ModelReadiness
from providers.openai.parameters import guess_parameters
from providers.openai.preflight import preflight_model
from providers.openai.settings import DeploymentSettings, ModelAddress, OpenAISettings
from providers.preflight import label_findings
from providers.types import (
    Capabilities,
    Completion,
    Finding,
    FinetuneSpec,
    Hyperparameters,
    JobHandle,
    JobState,
    Message,
    ModelRef,
    Need,
    Request,
    Sampling,
    Score,
)

_MIN_EXAMPLES = 10
_PREFLIGHT = {"max_attempts": 4, "give_up_after_s": 15.0, "timeout_s": 10.0}


class OpenAIProvider(Provider):
    """One base model and the models tuned from it; see `providers.base.Provider`.

    `ModelRef.artifact` is the server's id of the tuned model. The key is read and the connection
    opened at the first call. All models of one base share its limits.

        provider = registry.connect("openai:gpt-4.1-mini", {}, Path("runs/r"))
        completion = await provider.complete(request)
    """

    def __init__(
        self,
        address: ModelAddress,
        settings: OpenAISettings,
        written: str,
        *,
        waits_for_models: bool = True,
    ) -> None:
        self._waits_for_models = waits_for_models
        self._address = address
        self._settings = settings
        self._base = ModelRef(written, written)
        self._connection: Connection | None = None
        self._chat: Chat | None = None
        self._jobs: FinetuningJobs | None = None
        self._readiness: ModelReadiness | None = None
        self._deployments: Deployments | None = None
        self._tuned: list[str] = []

    @property
    def base(self) -> ModelRef:
        return self._base

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            finetune=self._settings.finetune,
            score=self._settings.score is not None,
            # Servers promise their best effort for a seed, not the same answer.
            sampling_seed=False,
            min_examples=_MIN_EXAMPLES,
            max_parallel_jobs=self._settings.max_parallel_jobs,
            poll_s=self._settings.poll_s,
            validation=True,
            listing_lag_s=self._settings.listing_lag_s,
            # Whether the server has them shows at the first call.
            batches=True,
            adapter_server=True,
            objectives=OBJECTIVES,
            deployments=self._settings.deployment is not None,
            delete_model=self._settings.finetune,
        )

    async def complete(self, request: Request) -> Completion:
        chat = self._get_chat()
        try:
            return await chat.ask(chat.make_call(request, self._name(request.model)))
        except ModelNotFound as error:
            raise self._explain_missing(request.model, error) from error

    async def score(self, model: ModelRef, messages: Sequence[Message], text: str) -> Score:
        if self._settings.score is None:
            raise Unsupported(
                f"{self._base.address} gives no log-probabilities of a given text; set "
                'score = "vllm" in [provider] if the server is vLLM, or score with a local model'
            )
        return await logprobs.score_text(self._get_chat(), self._name(model), messages, text)

    async def submit(self, spec: FinetuneSpec) -> JobHandle:
        return await self._get_jobs().submit(spec)

    async def find(self, spec: FinetuneSpec) -> JobHandle | None:
        return await self._get_jobs().find(spec)

    async def poll(self, handle: JobHandle) -> JobState:
        state = await self._get_jobs().poll(handle)
        if state.status == "succeeded" and state.model is not None and state.model.artifact:
            self._get_readiness().mark_fresh(state.model.artifact)
        return state

    async def cancel(self, handle: JobHandle) -> None:
        await self._get_jobs().cancel(handle)

    async def load_adapters(self, models: Sequence[ModelRef]) -> None:
        """Wait until the server has made its tuned models ready; see `models.ModelReadiness`.

        With `[provider.deployment]` deploy them, see `deployments.Deployments`. A connection with a
        deadline does neither: the server's own refusal says what is missing.
        """
        self._tuned = [model.artifact for model in models if model.artifact is not None]
        if not self._tuned or not self._waits_for_models:
            return
        if self._settings.deployment is not None:
            await self._get_deployments(self._settings.deployment).ensure(self._tuned)
        else:
            await self._get_readiness().wait(self._tuned)

    async def delete_model(self, model: ModelRef) -> None:
        """Delete a tuned model of the account. A base model is never named to the server."""
        if model.artifact is None:
            raise self._make_unsupported("is the base model; only tuned models are deleted")
        await self._get_jobs().delete_model(model.artifact)

    async def list_deployments(self, models: Sequence[ModelRef]) -> Sequence[Deployment]:
        if self._settings.deployment is None:
            return ()
        tuned = [model.artifact for model in models if model.artifact is not None]
        return await self._get_deployments(self._settings.deployment).list_standing(tuned)

    async def delete_deployment(self, deployment: Deployment) -> None:
        if self._settings.deployment is None:
            raise self._make_unsupported("deploys nothing; set [provider.deployment]")
        await self._get_deployments(self._settings.deployment).delete(deployment.artifact)

    async def preflight(self, need: Need) -> Sequence[Finding]:
        """See `Provider.preflight`: asks for lists and descriptions only."""
        # The user is waiting at the terminal, so an unreachable server is reported soon.
        settings = self._settings.shorten(**_PREFLIGHT)
        findings = await preflight_model(self._connect, self._address, settings, need)
        if need.finetune and self._settings.deployment is not None:
            found = await self._get_deployments(self._settings.deployment).preflight()
            findings += label_findings("fine-tuning", found)
        elif need.finetune and self._address.is_azure:
            findings.append(Finding("warning", UNDEPLOYED, DEPLOY_REMEDY, "fine-tuning"))
        return findings

    def with_deadline(self, give_up_after_s: float) -> OpenAIProvider:
        settings = self._settings.shorten(give_up_after_s=give_up_after_s)
        return OpenAIProvider(self._address, settings, self._base.address, waits_for_models=False)

    def validate_hyperparameters(self, hyperparameters: Hyperparameters) -> Sequence[str]:
        return find_unsupported(hyperparameters)

    def validate_sampling(self, sampling: Sampling) -> Sequence[str]:
        known = guess_parameters(self._address, self._address.model, self._settings)
        return known.find_refused_extras(sampling, self._address.model)

    def adapter_server(self) -> AdapterServer:
        """See `Provider.adapter_server`; the first call shows whether the server is one."""
        from providers.openai.lora_server import LoraServer

        connection = self._connect()
        return LoraServer(
            self._address.url,
            self._address.model,
            connection.auth_headers,
            secrets=connection.secrets,
        )

    def batches(self, records: BatchRecords) -> BatchClient:
        from providers.batch_account import BatchPacing
        from providers.batches import Batches
        from providers.openai.batch import OpenAIBatches
        from providers.openai.batch_format import BatchChat

        chat, connection = self._get_chat(), self._connect()
        caller = self._make_caller(connection)
        vendor = OpenAIBatches(connection.client, caller, BatchChat(connection, chat))
        return Batches(vendor, caller, records, BatchPacing(lag_s=self._settings.listing_lag_s))

    async def close(self) -> None:
        """Close the connection. Jobs at the server continue, and deployments stay."""
        connection, deployments = self._connection, self._deployments
        # Forgotten first: a later call opens a new connection even if closing this one fails.
        self._connection = self._chat = self._jobs = self._readiness = self._deployments = None
        if deployments is not None:
            await deployments.close()
        if connection is not None:
            await connection.close()

    def _connect(self) -> Connection:
        if self._connection is None:
            self._connection = Connection(self._address, self._settings)
        return self._connection

    def _get_chat(self) -> Chat:
        if self._chat is None:
            connection = self._connect()
            # Connections with the same key share the server's budget, so they share a limiter.
            limiter = get_limiter(
                connection.account, self._address.model, self._settings.to_limits()
            )
            self._chat = Chat(connection, self._settings, limiter)
        return self._chat

    def _get_jobs(self) -> FinetuningJobs:
        if self._jobs is None:
            connection = self._connect()
            self._jobs = FinetuningJobs(
                connection.client,
                self._make_caller(connection),
                base=self._address.model,
                address=self._base.address,
                lag_s=self._settings.listing_lag_s,
            )
        return self._jobs

    def _get_readiness(self) -> ModelReadiness:
        if self._readiness is None:
            connection = self._connect()
            self._readiness = ModelReadiness(
                connection.client, self._make_caller(connection), self._address.model
            )
        return self._readiness

    def _get_deployments(self, settings: DeploymentSettings) -> Deployments:
        if self._deployments is None:
            self._deployments = Deployments(settings, self._account, self._knows_model)
        return self._deployments

    @property
    def _account(self) -> str:
        """The name of the Azure resource, which its host begins with."""
        chosen = self._settings.deployment
        return (chosen and chosen.account) or self._address.host.partition(".")[0]

    async def _knows_model(self, name: str) -> bool:
        """Whether the server answers for `name` with anything but that there is no such model."""
        connection = self._connect()
        # Without messages the server refuses the request after it has found the model, and bills
        # nothing.
        create = connection.client.chat.completions.create
        try:
            await self._make_caller(connection).call_once(lambda: create(model=name, messages=[]))
        except ModelNotFound:
            return False
        except ProviderError:
            return True
        return True

    def _explain_missing(self, model: ModelRef, error: ModelNotFound) -> ModelNotFound:
        """The server's "no such model", with what to deploy if that is the reason."""
        if model.artifact is None or not (self._address.is_azure or self._settings.deployment):
            return error
        chosen = self._settings.deployment
        if chosen is not None and self._waits_for_models:
            return ModelNotFound(
                f"{error}; its deployment is gone (Azure removes those of DeveloperTier after 24 "
                "hours, and idle ones after 15 days): start again, and it is deployed anew"
            )
        artifacts = self._tuned or [model.artifact]
        return ModelNotFound(f"{error}. {explain_undeployed(artifacts, self._account, chosen)}")

    def _make_caller(self, connection: Connection) -> Caller:
        policy = self._settings.to_retry_policy()
        return make_caller(connection.secrets, self._address.model, policy)

    def _name(self, model: ModelRef) -> str:
        return self._connect().name_model(model)
