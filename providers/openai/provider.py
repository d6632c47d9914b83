"""The provider for models behind OpenAI's API or one like it."""

from __future__ import annotations

from collections.abc import Sequence

from providers.base import AdapterServer, BatchClient, BatchRecords, Provider
from providers.errors import Unsupported
from providers.limits import get_limiter
from providers.openai import logprobs
from providers.openai.calling import Caller
from providers.openai.chat import Chat
from providers.openai.client import Connection
from providers.openai.job_format import find_unsupported
from providers.openai.jobs import FinetuningJobs
from providers.openai.models import ModelReadiness
from providers.openai.parameters import guess_parameters
from providers.openai.preflight import preflight_model
from providers.openai.settings import ModelAddress, OpenAISettings
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
_PREFLIGHT_ATTEMPTS = 4
_PREFLIGHT_S = 15.0
_PREFLIGHT_CALL_S = 10.0


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
        )

    async def complete(self, request: Request) -> Completion:
        chat = self._get_chat()
        return await chat.ask(chat.make_call(request, self._name(request.model)))

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

        A connection with a deadline does not wait: the server's own refusal says what is missing.
        """
        tuned = [model.artifact for model in models if model.artifact is not None]
        if tuned and self._waits_for_models:
            await self._get_readiness().wait(tuned)

    async def preflight(self, need: Need) -> Sequence[Finding]:
        """See `Provider.preflight`: asks for lists and descriptions only."""
        # The user is waiting at the terminal, so an unreachable server is reported soon.
        brief = {
            "max_attempts": min(_PREFLIGHT_ATTEMPTS, self._settings.max_attempts),
            "give_up_after_s": min(_PREFLIGHT_S, self._settings.give_up_after_s),
            "timeout_s": min(_PREFLIGHT_CALL_S, self._settings.timeout_s),
        }
        settings = self._settings.model_copy(update=brief)
        return await preflight_model(self._connect, self._address, settings, need)

    def with_deadline(self, give_up_after_s: float) -> OpenAIProvider:
        brief = min(give_up_after_s, self._settings.give_up_after_s)
        settings = self._settings.model_copy(update={"give_up_after_s": brief})
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
        from providers.openai.batch import Batches, BatchPacing
        from providers.openai.batch_format import BatchChat

        chat, connection = self._get_chat(), self._connect()
        return Batches(
            connection.client,
            self._make_caller(connection),
            BatchChat(connection, chat),
            records,
            BatchPacing(lag_s=self._settings.listing_lag_s),
        )

    async def close(self) -> None:
        """Close the connection. Jobs at the server continue."""
        connection = self._connection
        # Forgotten first: a later call opens a new connection even if closing this one fails.
        self._connection = self._chat = self._jobs = self._readiness = None
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

    def _make_caller(self, connection: Connection) -> Caller:
        return Caller(connection.secrets, self._address.model, self._settings.to_retry_policy())

    def _name(self, model: ModelRef) -> str:
        return model.artifact or self._address.model
