"""Models that are trained on this machine and answered by a server.

`SplitProvider` joins two providers of one base model: the trainer makes LoRA adapters as folders,
the server answers with them. The adapters are loaded into the server while it runs, under names
that are never used twice: a server may answer from caches that were filled under an earlier adapter
of the same name (https://github.com/vllm-project/vllm/issues/42125). None of our requests is in
flight while an adapter is loaded or unloaded: one that was loaded under traffic once answered for
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

from providers import registry
from providers.artifact import verify
from providers.base import AdapterServer, Provider, ProviderWrapper
from providers.errors import InvalidSettings, ModelNotFound, RequestError
from providers.types import (
    Capabilities,
    Completion,
    Hyperparameters,
    LoadedAdapter,
    Message,
    ModelRef,
    Request,
    Sampling,
    Score,
)

_TOKEN_BYTES = 3
_OF_THE_PROMPT = ("chat_template_kwargs", "reasoning_effort")
"""The settings of providers that change a conversation's prompt."""


@dataclass(frozen=True, slots=True)
class AnswerServer:
    """The server that answers for models which are trained on this machine: `[serving]`.

    `path_map` translates folders of this machine into the server's: {"/data/runs": "/mnt/runs"}; of
    several that fit, the longest is taken. Without one the server sees the same paths.
    """

    address: str
    settings: Mapping[str, object] = field(default_factory=dict)
    path_map: Mapping[str, str] = field(default_factory=dict)

    def map_path(self, path: Path) -> str:
        """The server's path of an absolute path of this machine."""
        fitting = [local for local in self.path_map if path.is_relative_to(local)]
        if not fitting:
            return str(path)
        local = max(fitting, key=lambda known: len(Path(known).parts))
        return str(PurePosixPath(self.path_map[local], *path.relative_to(local).parts))

    def adapter_folder(self, workdir: Path) -> str:
        """The folder where the server finds the adapters that are made in `workdir`."""
        return self.map_path(workdir.resolve())


def check_answer_server(
    answers: AnswerServer, hyperparameters: Hyperparameters, trainer: Mapping[str, object]
) -> None:
    """Raise `InvalidSettings` or `ModelNotFound` for settings that are wrong; makes no call.

    `hyperparameters` are those that the models are trained with, `trainer` the settings of the
    provider that trains them.
    """
    registry.check(answers.address, answers.settings)
    for name in _OF_THE_PROMPT:
        asked, trained = answers.settings.get(name) or None, trainer.get(name) or None
        if asked != trained:
            raise InvalidSettings(
                f"serving.settings.{name} is {asked!r}, and provider.{name} is {trained!r}, so "
                "models would be trained on other prompts than they answer; set both alike"
            )
    if hyperparameters.method != "lora":
        raise InvalidSettings(
            f"finetune.method = {hyperparameters.method!r} makes whole models, and a running "
            'server takes adapters only; use "lora", or leave [serving] out'
        )
    # vLLM refuses DoRA (`PEFTHelper`), and servers know the factors of fused experts by names of
    # their own.
    for name in ("use_dora", "lora_experts"):
        if getattr(hyperparameters, name):
            raise InvalidSettings(
                f"finetune.{name} = true makes adapters that a server does not load; remove it, or "
                "leave [serving] out"
            )
    for local in answers.path_map:
        if not Path(local).is_absolute():
            raise InvalidSettings(
                f"serving.path_map has the relative folder {local!r}; write it from the root on"
            )


def connect_split(
    address: str, settings: Mapping[str, object], answers: AnswerServer, workdir: Path
) -> Provider:
    """Open the trainer at `address` and the server at `answers.address` as one provider.

    Raises `InvalidSettings` if the server is of a kind that takes no adapters.
    """
    server = registry.connect(answers.address, answers.settings, workdir)
    if not server.capabilities.adapter_server:
        raise InvalidSettings(
            f"serving.address = {answers.address!r} is no server that adapters can be loaded into; "
            "use one of vLLM or SGLang, such as 'openai+http://127.0.0.1:8000/v1:BASE'"
        )
    trainer = registry.connect(address, settings, workdir)
    return SplitProvider(trainer, server, server.adapter_server(), answers, workdir)


class SplitProvider(ProviderWrapper):
    """Trains with `trainer`, answers with `server`.

    Models are named as the trainer names them, so what is stored does not depend on the server. A
    tuned model can be asked once `load_adapters` has returned for it. The adapters loaded last stay
    loaded when the connection is closed, and the next one finds them. Divergences come from the
    trainer: servers give only the probabilities of chosen tokens.
    """

    def __init__(
        self,
        trainer: Provider,
        server: Provider,
        adapters: AdapterServer,
        answers: AnswerServer,
        workdir: Path,
    ) -> None:
        super().__init__(trainer)
        self._trainer = trainer
        self._server = server
        self._adapters = adapters
        self._answers = answers
        self._workdir = workdir.resolve()
        self._gate = _Gate()
        self._names: dict[str, str] = {}

    @property
    def capabilities(self) -> Capabilities:
        trainer, server = self._trainer.capabilities, self._server.capabilities
        return replace(
            trainer,
            score=server.score or trainer.score,
            sampling_seed=server.sampling_seed,
            repeatable=server.repeatable,
            # Of the trainer, these would be about a model that does not answer.
            batches=False,
            adapter_server=False,
        )

    async def complete(self, request: Request) -> Completion:
        async with self._gate.pass_through():
            model = self._find_on_server(request.model)
            completion = await self._server.complete(replace(request, model=model))
        if completion.thought is not None:
            # What the model sampled is lost, so nothing could be trained as it was said.
            raise InvalidSettings(
                f"{self._answers.address} returns thoughts apart from answers, so that models "
                "trained on this machine would learn answers without them; start the server "
                "without a reasoning parser (vLLM, SGLang: --reasoning-parser)"
            )
        return completion

    def validate_sampling(self, sampling: Sampling) -> Sequence[str]:
        return self._server.validate_sampling(sampling)

    async def score(self, model: ModelRef, messages: Sequence[Message], text: str) -> Score:
        if not self._server.capabilities.score:
            return await self._trainer.score(model, messages, text)
        async with self._gate.pass_through():
            return await self._server.score(self._find_on_server(model), messages, text)

    async def load_adapters(self, models: Sequence[ModelRef]) -> None:
        """Load what is missing, and unload what is left of earlier calls and earlier processes."""
        hashes = {m.artifact: m.sha256 for m in models if m.artifact is not None}
        digests = {artifact: await self._digest(artifact, sha) for artifact, sha in hashes.items()}
        async with self._gate.hold():
            self._names = {}
            kept: dict[str, str] = {}
            for adapter in await self._list_own_adapters():
                artifact = PurePosixPath(adapter.path).name
                # The name holds a hash of the files: a retrained model in the same folder does
                # not match, so it is loaded under a new name.
                stem = f"{artifact}-{digests.get(artifact)}-"
                if artifact in kept or not adapter.name.startswith(stem):
                    await self._unload(adapter.name)
                else:
                    kept[artifact] = adapter.name
            for artifact, digest in digests.items():
                if artifact not in kept:
                    kept[artifact] = await self._load(artifact, digest)
            self._names = kept

    def with_deadline(self, give_up_after_s: float) -> SplitProvider:
        server = self._server.with_deadline(give_up_after_s)
        return SplitProvider(
            self._trainer.with_deadline(give_up_after_s),
            server,
            server.adapter_server(),
            self._answers,
            self._workdir,
        )

    async def close(self) -> None:
        """Close trainer, server and its administration, even if one fails to close."""
        # The first error is raised only after all three have been closed.
        closing = (part.close() for part in (self._adapters, self._server, self._trainer))
        for outcome in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    def _find_on_server(self, model: ModelRef) -> ModelRef:
        if model.artifact is None:
            return self._server.base
        name = self._names.get(model.artifact)
        if name is None:
            raise ModelNotFound(
                f"the tuned model {model.artifact!r} is not loaded at {self._answers.address}; "
                "load it first"
            )
        address = self._server.base.address
        return ModelRef(model.model_id, address, self._adapters.model_name(name))

    async def _list_own_adapters(self) -> list[LoadedAdapter]:
        """The adapters from this run's folder; those of other runs on the server are left alone."""
        home = PurePosixPath(self._answers.adapter_folder(self._workdir))
        loaded = await self._adapters.list_loaded()
        return [adapter for adapter in loaded if PurePosixPath(adapter.path).parent == home]

    async def _load(self, artifact: str, digest: str) -> str:
        name = f"{artifact}-{digest}-{secrets.token_hex(_TOKEN_BYTES)}"
        await self._adapters.load(name, self._answers.map_path(self._workdir / artifact))
        return name

    async def _unload(self, name: str) -> None:
        try:
            await self._adapters.unload(name)
        except RequestError:
            # vLLM cannot unload what its cache has dropped already. The name is never used again.
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
    """The first eight digits of a hash over the adapter's files and their names."""
    whole = hashlib.sha256()
    for path in sorted(folder.glob("adapter_*")):
        with path.open("rb") as file:
            whole.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:8]


class _Gate:
    """Requests pass side by side; `hold` waits for those in flight and holds up new ones."""

    def __init__(self) -> None:
        self._in_flight = 0
        self._open, self._idle = asyncio.Event(), asyncio.Event()
        self._open.set()
        self._idle.set()
        self._change = asyncio.Lock()

    @asynccontextmanager
    async def pass_through(self) -> AsyncIterator[None]:
        # In a loop: another task may have closed the gate again before this one is woken up.
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
    async def hold(self) -> AsyncIterator[None]:
        async with self._change:
            self._open.clear()
            try:
                await self._idle.wait()
                yield
            finally:
                self._open.set()
