"""The provider for Gemini: chat, and tuning jobs on Vertex AI."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from providers.base import BatchClient, BatchRecords, Provider
from providers.batch_account import BatchPacing
from providers.batches import Batches
from providers.errors import Unsupported
from providers.gemini.batch import GeminiBatches, LazyBatches
from providers.gemini.chat import GeminiChat, find_refused_sampling
from providers.gemini.client import GeminiConnection, open_connection
from providers.gemini.job_format import MIN_EXAMPLES, OBJECTIVES, find_unsupported
from providers.gemini.jobs import TuningJobs
from providers.gemini.preflight import BASE_ONLY, preflight_gemini
from providers.gemini.settings import GeminiSettings
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

_PREFLIGHT = {"max_attempts": 4, "give_up_after_s": 15.0, "timeout_s": 10.0}


class GeminiProvider(Provider):
    """One base model and the models tuned from it; see `providers.base.Provider`.

    `ModelRef.artifact` is the endpoint of the tuned model, which Google makes with it: nothing has
    to be deployed, and only tokens are billed. Credentials are read at the first call.

        provider = registry.connect("gemini:gemini-3.5-flash", {"bucket": "b"}, Path("runs/r"))
        completion = await provider.complete(request)
    """

    def __init__(self, model: str, settings: GeminiSettings) -> None:
        self._model = model
        self._settings = settings
        self._base = ModelRef(f"gemini:{model}", f"gemini:{model}")
        self._connecting = asyncio.Lock()
        self._connection: GeminiConnection | None = None
        self._chat: GeminiChat | None = None
        self._jobs: TuningJobs | None = None

    @property
    def base(self) -> ModelRef:
        return self._base

    @property
    def capabilities(self) -> Capabilities:
        settings = self._settings
        return Capabilities(
            finetune=settings.on_vertex,
            # Google promises its best effort for a seed, not the same answer.
            sampling_seed=False,
            min_examples=MIN_EXAMPLES,
            max_parallel_jobs=settings.max_parallel_jobs,
            poll_s=settings.poll_s,
            validation=True,
            listing_lag_s=settings.listing_lag_s,
            batches=settings.on_vertex,
            objectives=OBJECTIVES,
            tuned_starts=self._model not in BASE_ONLY,
            delete_model=settings.on_vertex,
        )

    async def complete(self, request: Request) -> Completion:
        return await (await self._get_chat()).ask(request)

    def validate_sampling(self, sampling: Sampling) -> Sequence[str]:
        return find_refused_sampling(sampling, self._model)

    def validate_hyperparameters(self, hyperparameters: Hyperparameters) -> Sequence[str]:
        return find_unsupported(hyperparameters)

    async def submit(self, spec: FinetuneSpec) -> JobHandle:
        return await (await self._get_jobs()).submit(spec)

    async def find(self, spec: FinetuneSpec) -> JobHandle | None:
        return await (await self._get_jobs()).find(spec)

    async def poll(self, handle: JobHandle) -> JobState:
        return await (await self._get_jobs()).poll(handle)

    async def cancel(self, handle: JobHandle) -> None:
        await (await self._get_jobs()).cancel(handle)

    async def delete_model(self, model: ModelRef) -> None:
        """Delete a tuned model and the endpoints at which it answers."""
        if model.artifact is None:
            raise self._make_unsupported("is the base model; only tuned models are deleted")
        await (await self._get_jobs()).delete_model(model.artifact)

    def batches(self, records: BatchRecords) -> BatchClient:
        """See `Provider.batches`. They take the bucket of [provider]."""
        if not self._settings.on_vertex:
            raise self._make_unsupported(
                "has no batches here with api_key_env; remove it, or set evaluation.batch = false"
            )

        async def open_batches() -> Batches:
            connection = await self._connect()
            vendor = GeminiBatches(connection, await self._get_jobs())
            pacing = BatchPacing(lag_s=self._settings.listing_lag_s)
            return Batches(vendor, connection.make_caller(), records, pacing)

        return LazyBatches(open_batches)

    async def load_adapters(self, models: Sequence[ModelRef]) -> None:
        """Nothing to do: a tuned model answers at its endpoint from the end of its job on."""

    async def preflight(self, need: Need) -> Sequence[Finding]:
        """See `Provider.preflight`: counts tokens, lists jobs, describes the bucket."""
        # The user is waiting at the terminal, so what cannot be reached is reported soon.
        settings = self._settings.shorten(**_PREFLIGHT)
        opened: list[GeminiConnection] = []

        async def connect() -> GeminiConnection:
            opened.append(await open_connection(self._model, settings))
            return opened[-1]

        try:
            return await preflight_gemini(connect, self._model, settings, self._base.address, need)
        finally:
            for connection in opened:
                await connection.close()

    def with_deadline(self, give_up_after_s: float) -> GeminiProvider:
        return GeminiProvider(self._model, self._settings.shorten(give_up_after_s=give_up_after_s))

    async def close(self) -> None:
        """Close the connection. Jobs at Google continue."""
        connection = self._connection
        # Forgotten first: a later call opens a new connection even if closing this one fails.
        self._connection = self._chat = self._jobs = None
        if connection is not None:
            await connection.close()

    async def _connect(self) -> GeminiConnection:
        async with self._connecting:
            if self._connection is None:
                self._connection = await open_connection(self._model, self._settings)
            return self._connection

    async def _get_chat(self) -> GeminiChat:
        if self._chat is None:
            connection = await self._connect()
            # Connections of one project share its quota, so they share a limiter.
            limiter = get_limiter(connection.account, self._model, self._settings.to_limits())
            self._chat = GeminiChat(connection, limiter)
        return self._chat

    async def _get_jobs(self) -> TuningJobs:
        if not self._settings.on_vertex:
            raise Unsupported(
                f"{self._base.address} cannot fine-tune with api_key_env, since the Gemini "
                "Developer API has no jobs; remove it to use Vertex AI, or set iterations = 0"
            )
        if self._jobs is None:
            self._jobs = TuningJobs(await self._connect(), self._base.address)
        return self._jobs
