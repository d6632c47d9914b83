"""Models that are trained here and asked elsewhere.

`Served` joins two providers of one base model: the trainer makes LoRA adapters as folders, the
server answers with them. The adapters are loaded into the server while it runs, under names that
are never used twice: a server may answer from caches that were filled under an earlier adapter of
the same name (https://github.com/vllm-project/vllm/issues/42125). Nothing of ours is in flight
while an adapter is loaded or unloaded, since one that was loaded under traffic once answered for
another (https://github.com/vllm-project/vllm/issues/47724).
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol, runtime_checkable

from providers import registry
from providers.artifact import verify
from providers.base import Choosy, Provider, comparing
from providers.errors import InvalidSettings, ModelNotFound, RequestError
from providers.preflight import Finding
from providers.types import (
    Capabilities,
    Completion,
    Divergence,
    FinetuneSpec,
    Hyperparameters,
    JobHandle,
    JobState,
    Message,
    ModelRef,
    Request,
    Score,
)

_TOKEN_BYTES = 3


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """An adapter the server has: its name there, and the folder on the server's disk."""

    name: str
    path: str


class AdapterServer(Protocol):
    """A running server whose adapters can be changed. Raises only errors of `providers.errors`."""

    async def loaded(self) -> Sequence[LoadedAdapter]:
        """Every adapter the server has now, whoever loaded it."""

    async def load(self, name: str, path: str) -> None:
        """Load the folder at `path` on the server's disk; returns once the server lists it.

        Raises `Unsupported` where the server refuses, saying how it has to be started.
        """

    async def unload(self, name: str) -> None:
        """Let the server forget an adapter; nothing happens where it does not have it."""

    def model_name(self, name: str) -> str:
        """What a request has to name as its model to be answered with adapter `name`."""

    async def preflight(self) -> Sequence[Finding]:
        """Whether adapters can be loaded, as far as it shows without loading one."""

    async def close(self) -> None:
        """Let go of the connection; the adapters stay."""


@runtime_checkable
class ServesAdapters(Protocol):
    """A provider whose server may take adapters while it runs."""

    def adapters(self) -> AdapterServer:
        """The administration of the server's adapters."""


@dataclass(frozen=True, slots=True)
class Serving:
    """Where models are asked that are trained here.

    `path_map` translates folders of this machine into the server's: {"/here": "/there"}; of several
    that fit, the longest is taken. Without one the server sees the same paths.
    """

    address: str
    settings: Mapping[str, object] = field(default_factory=dict)
    path_map: Mapping[str, str] = field(default_factory=dict)

    def there(self, path: Path) -> str:
        """The server's path of an absolute path of this machine."""
        fitting = [here for here in self.path_map if path.is_relative_to(here)]
        if not fitting:
            return str(path)
        here = max(fitting, key=lambda known: len(Path(known).parts))
        return str(PurePosixPath(self.path_map[here], *path.relative_to(here).parts))

    def home(self, workdir: Path) -> str:
        """Where the server finds the adapters that are made in `workdir`."""
        return self.there(workdir.resolve())


def check(serving: Serving, method: Literal["lora", "full"]) -> None:
    """Raise `InvalidSettings` or `ModelNotFound` for what is seen to be wrong without a call.

    `method` is how the models are trained that the server is to take.
    """
    registry.check(serving.address, serving.settings)
    if method != "lora":
        raise InvalidSettings(
            f"finetune.method = {method!r} makes whole models, and a running server takes adapters "
            'only; use "lora", or leave [serving] out'
        )
    for here in serving.path_map:
        if not Path(here).is_absolute():
            raise InvalidSettings(
                f"serving.path_map has the relative folder {here!r}; write it from the root on"
            )


def connect(
    address: str, settings: Mapping[str, object], serving: Serving, workdir: Path
) -> Provider:
    """Open the trainer at `address` and the server at `serving.address` as one provider.

    Raises `InvalidSettings` where the server is of a kind that takes no adapters.
    """
    server = registry.connect(serving.address, serving.settings, workdir)
    if not isinstance(server, ServesAdapters):
        raise InvalidSettings(
            f"serving.address = {serving.address!r} is no server that adapters can be loaded into; "
            "use one of vLLM or SGLang, such as 'openai+http://127.0.0.1:8000/v1:BASE'"
        )
    trainer = registry.connect(address, settings, workdir)
    return Served(trainer, server, server.adapters(), serving, workdir)


class Served:
    """Asks `server` and trains with `trainer`; see `providers.base.Provider`.

    Models are named as the trainer names them, so what is stored does not depend on the server. A
    tuned model can be asked once `load_adapters` has returned for it. The adapters loaded last stay
    loaded when the connection is closed, and the next one finds them.
    """

    def __init__(
        self,
        trainer: Provider,
        server: Provider,
        adapters: AdapterServer,
        serving: Serving,
        workdir: Path,
    ) -> None:
        self._trainer = trainer
        self._server = server
        self._adapters = adapters
        self._serving = serving
        self._workdir = workdir.resolve()
        self._gate = _Gate()
        self._names: dict[str, str] = {}

    @property
    def base(self) -> ModelRef:
        return self._trainer.base

    @property
    def capabilities(self) -> Capabilities:
        trained, asked = self._trainer.capabilities, self._server.capabilities
        return replace(
            trained,
            score=asked.score or trained.score,
            sampling_seed=asked.sampling_seed,
            repeatable=asked.repeatable,
        )

    async def complete(self, request: Request) -> Completion:
        async with self._gate.passing():
            return await self._server.complete(replace(request, model=self._there(request.model)))

    async def score(self, model: ModelRef, messages: Sequence[Message], text: str) -> Score:
        if not self._server.capabilities.score:
            return await self._trainer.score(model, messages, text)
        async with self._gate.passing():
            return await self._server.score(self._there(model), messages, text)

    async def divergences(
        self, p: ModelRef, others: Sequence[ModelRef], messages: Sequence[Message], text: str
    ) -> Sequence[Divergence]:
        """By the trainer: servers tell only the probabilities of chosen tokens."""
        return await comparing(self._trainer).divergences(p, others, messages, text)

    def unsupported(self, hyperparameters: Hyperparameters) -> Sequence[str]:
        """What the trainer says; see `providers.base.Choosy`."""
        trainer = self._trainer
        return trainer.unsupported(hyperparameters) if isinstance(trainer, Choosy) else ()

    async def submit(self, spec: FinetuneSpec) -> JobHandle:
        return await self._trainer.submit(spec)

    async def find(self, spec: FinetuneSpec) -> JobHandle | None:
        return await self._trainer.find(spec)

    async def poll(self, handle: JobHandle) -> JobState:
        return await self._trainer.poll(handle)

    async def cancel(self, handle: JobHandle) -> None:
        await self._trainer.cancel(handle)

    async def load_adapters(self, models: Sequence[ModelRef]) -> None:
        """Load what is missing and unload what an earlier call, also of another process, left."""
        wanted = dict.fromkeys(model.artifact for model in models if model.artifact is not None)
        hashes = {model.artifact: model.sha256 for model in models}
        digests = {artifact: await self._digest(artifact, hashes[artifact]) for artifact in wanted}
        async with self._gate.changing():
            self._names = {}
            kept: dict[str, str] = {}
            for adapter in await self._ours():
                artifact = PurePosixPath(adapter.path).name
                stem = f"{artifact}-{digests.get(artifact)}-"
                if artifact in kept or not adapter.name.startswith(stem):
                    await self._unload(adapter.name)
                else:
                    kept[artifact] = adapter.name
            for artifact, digest in digests.items():
                if artifact not in kept:
                    kept[artifact] = await self._load(artifact, digest)
            self._names = kept

    async def close(self) -> None:
        """Close all three, also where one fails to."""
        closing = (part.close() for part in (self._adapters, self._server, self._trainer))
        for outcome in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    def _there(self, model: ModelRef) -> ModelRef:
        if model.artifact is None:
            return self._server.base
        name = self._names.get(model.artifact)
        if name is None:
            raise ModelNotFound(
                f"the tuned model {model.artifact!r} is not loaded at {self._serving.address}; "
                "load it first"
            )
        address = self._server.base.address
        return ModelRef(model.model_id, address, self._adapters.model_name(name))

    async def _ours(self) -> list[LoadedAdapter]:
        """The server's adapters whose folders are this run's, so that runs can share a server."""
        home = PurePosixPath(self._serving.home(self._workdir))
        loaded = await self._adapters.loaded()
        return [adapter for adapter in loaded if PurePosixPath(adapter.path).parent == home]

    async def _load(self, artifact: str, digest: str) -> str:
        name = f"{artifact}-{digest}-{secrets.token_hex(_TOKEN_BYTES)}"
        await self._adapters.load(name, self._serving.there(self._workdir / artifact))
        return name

    async def _unload(self, name: str) -> None:
        try:
            await self._adapters.unload(name)
        except RequestError:
            # vLLM cannot remove what its cache has dropped already. The name is never asked again.
            return

    async def _digest(self, artifact: str, sha256: str | None) -> str:
        folder = self._workdir / artifact
        await asyncio.to_thread(verify, folder, sha256)
        if not (folder / "adapter_config.json").is_file():
            raise ModelNotFound(
                f"there is no LoRA adapter in {str(folder)!r}, and a server can load adapters "
                'only: finetune.method = "lora"'
            )
        return await asyncio.to_thread(_fingerprint, folder)


def _fingerprint(folder: Path) -> str:
    """Eight digits that stand for the files of an adapter, names included."""
    whole = hashlib.sha256()
    for path in sorted(folder.glob("adapter_*")):
        with path.open("rb") as file:
            whole.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:8]


class _Gate:
    """Answers pass side by side; a change waits for those in flight and holds up new ones."""

    def __init__(self) -> None:
        self._in_flight = 0
        self._open, self._idle = asyncio.Event(), asyncio.Event()
        self._open.set()
        self._idle.set()
        self._change = asyncio.Lock()

    @asynccontextmanager
    async def passing(self) -> AsyncIterator[None]:
        while not self._open.is_set():
            await self._open.wait()
        self._in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._in_flight -= 1
            if self._in_flight == 0:
                self._idle.set()

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[None]:
        async with self._change:
            self._open.clear()
            try:
                await self._idle.wait()
                yield
            finally:
                self._open.set()
