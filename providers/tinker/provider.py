"""The provider for servers of Tinker's wire: sampling, scores, and trainings side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from providers.base import Provider
from providers.limits import get_limiter
from providers.server_address import ServerAddress
from providers.tinker.archive import delete_saved, download_adapter
from providers.tinker.chat import TinkerChat
from providers.tinker.connection import TinkerConnection, open_connection
from providers.tinker.fit import Workplace
from providers.tinker.jobs import TinkerJobs
from providers.tinker.loaded import LoadedModels
from providers.tinker.preflight import preflight_tinker
from providers.tinker.rendering import open_renderer
from providers.tinker.settings import (
    TinkerSettings,
    find_unsupported,
    find_unsupported_sampling,
    is_hosted,
)
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
    PromptTemplate,
    Request,
    Sampling,
    Score,
)

_PREFLIGHT = {"max_attempts": 4, "give_up_after_s": 15.0, "timeout_s": 300.0}


class TinkerProvider(Provider):
    """One base model and its adapters at a server; see `providers.base.Provider`.

    `ModelRef.artifact` is the path of the saved weights that answer, such as
    "tinker://RUN/sampler_weights/NAME". The key is read at the first call.

        provider = registry.connect("tinker:Qwen/Qwen3-8B", {}, Path("runs/r/models"))
        completion = await provider.complete(request)
    """

    def __init__(
        self, written: str, address: ServerAddress, settings: TinkerSettings, workdir: Path
    ) -> None:
        self._address = address
        self._settings = settings
        self._workdir = workdir
        self._base = ModelRef(written, written)
        self._opening = asyncio.Lock()
        self._place: Workplace | None = None
        self._chat: TinkerChat | None = None
        self._jobs: TinkerJobs | None = None

    @property
    def base(self) -> ModelRef:
        return self._base

    @property
    def capabilities(self) -> Capabilities:
        # Servers of the user's own, such as SkyRL, keep what they saved in a folder of theirs.
        return replace(self._settings.to_capabilities(), delete_model=is_hosted(self._address))

    async def complete(self, request: Request) -> Completion:
        return await (await self._get_chat()).ask(request)

    async def score(self, model: ModelRef, messages: Sequence[Message], text: str) -> Score:
        return await (await self._get_chat()).score(model, messages, text)

    def validate_sampling(self, sampling: Sampling) -> Sequence[str]:
        return find_unsupported_sampling(sampling, self._address.host)

    def validate_hyperparameters(self, hyperparameters: Hyperparameters) -> Sequence[str]:
        return find_unsupported(hyperparameters, self._settings, self._address)

    async def read_template(self) -> PromptTemplate:
        renderer = await open_renderer(self._address.model, self._settings)
        return renderer.describe_template()

    async def prepare_tuning(self, hyperparameters: Hyperparameters) -> None:
        """At a server of the user's own, make an adapter of this rank and give it back."""
        place = await self._open()
        if place.connection.has_slots:
            facts = {"name": "preflight"}
            client = await place.loaded.create(hyperparameters.lora_rank, 0, facts)
            await place.loaded.release(client)

    async def submit(self, spec: FinetuneSpec) -> JobHandle:
        return await self._get_jobs().submit(spec)

    async def find(self, spec: FinetuneSpec) -> JobHandle | None:
        return await self._get_jobs().find(spec)

    async def poll(self, handle: JobHandle) -> JobState:
        return await self._get_jobs().poll(handle)

    async def cancel(self, handle: JobHandle) -> None:
        await self._get_jobs().cancel(handle)

    async def load_adapters(self, models: Sequence[ModelRef]) -> None:
        """Give back the slots of other adapters; these are loaded when they are asked."""
        place = await self._open()
        await place.loaded.keep(m.artifact for m in models if m.artifact is not None)

    async def download_model(self, model: ModelRef, folder: Path) -> None:
        """Fetch a tuned model as a folder that PEFT reads."""
        place = await self._open()
        assert model.artifact is not None
        await download_adapter(place.connection, model.artifact, folder)

    async def delete_model(self, model: ModelRef) -> None:
        """Delete the saved weights of a tuned model, and the state it could be trained on from."""
        place = await self._open()
        assert model.artifact is not None
        await delete_saved(place.connection, model.artifact)

    async def preflight(self, need: Need) -> Sequence[Finding]:
        """See `Provider.preflight`."""
        # The user is waiting at the terminal, so what cannot be reached is reported soon.
        settings = self._settings.shorten(**_PREFLIGHT)
        opened: list[TinkerConnection] = []

        async def connect() -> TinkerConnection:
            opened.append(await open_connection(self._address, settings))
            return opened[-1]

        try:
            return await preflight_tinker(connect, self._address, settings, self._workdir, need)
        finally:
            for connection in opened:
                await connection.close()

    def with_deadline(self, give_up_after_s: float) -> TinkerProvider:
        settings = self._settings.shorten(give_up_after_s=give_up_after_s)
        return TinkerProvider(self._base.address, self._address, settings, self._workdir)

    async def close(self) -> None:
        """End trainings at a saved state, give slots back, and end the session."""
        jobs, place = self._jobs, self._place
        # Forgotten first: a later call opens a new session even if closing this one fails.
        self._jobs = self._place = self._chat = None
        if jobs is not None:
            await jobs.close()
        if place is not None:
            await place.loaded.close()
            await place.connection.close()

    async def _open(self) -> Workplace:
        async with self._opening:
            if self._place is None:
                renderer = await open_renderer(self._address.model, self._settings)
                connection = await open_connection(self._address, self._settings)
                loaded = LoadedModels(connection, self._workdir)
                self._place = Workplace(connection, renderer, loaded, self._workdir)
            return self._place

    async def _get_chat(self) -> TinkerChat:
        place = await self._open()
        if self._chat is None:
            limits = self._settings.to_limits()
            limiter = get_limiter(self._address.url, self._address.model, limits)
            self._chat = TinkerChat(place.connection, place.renderer, place.loaded, limiter)
        return self._chat

    def _get_jobs(self) -> TinkerJobs:
        if self._jobs is None:
            most = self._settings.max_parallel_jobs
            self._jobs = TinkerJobs(self._open, self._workdir, self._base.address, most)
        return self._jobs
