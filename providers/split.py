"""Models that are trained on this machine and answered by servers.

`SplitProvider` joins a trainer, which makes LoRA adapters as folders, and the servers of the same
base model that answer with them.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from providers import registry
from providers.answer_server import AnswerServer
from providers.artifact import verify
from providers.base import Provider
from providers.canary import Canary
from providers.cluster.settings import ClusterSettings
from providers.errors import InvalidSettings, ModelNotFound
from providers.limits.retry import RetryPolicy
from providers.replica import TRIAL, Replica
from providers.replicas import Replicas
from providers.types import (
    Capabilities,
    Completion,
    Hyperparameters,
    Message,
    ModelRef,
    Request,
    Sampling,
    Score,
)
from providers.wrapper import ProviderWrapper

_SOON_S = 5.0
"""How long one of several servers is asked again by itself, before its calls go to the others."""
_AT_ONCE = 256
"""Calls that a server gets at first: as many as vLLM and SGLang answer together, where nobody else
asks. It queues what is too much and refuses none, so there is no rate to be found out."""


def connect_split(
    address: str,
    settings: Mapping[str, object],
    servers: Sequence[AnswerServer],
    workdir: Path,
    *,
    canary: bool = False,
    cluster: ClusterSettings | None = None,
) -> Provider:
    """Open the trainer at `address` and the servers that answer as one provider.

    With `canary` adapters are tried after every load, if the trainer gives log-probabilities.
    Raises `InvalidSettings` if a server is of a kind that takes no adapters.
    """
    trainer = registry.connect(address, settings, workdir, cluster)
    tried = Canary(lambda: trainer) if canary and trainer.capabilities.score else None
    return join_servers(trainer, servers, workdir, tried)


def join_servers(
    trainer: Provider, servers: Sequence[AnswerServer], workdir: Path, canary: Canary | None = None
) -> SplitProvider:
    """The same with a trainer that is open already, and closed with the servers."""
    replicas = []
    for server in servers:
        provider = _connect(server, workdir, alone=len(servers) == 1)
        adapters = provider.adapter_server()
        replicas.append(Replica(server, provider, adapters, workdir, canary))
    patience_s = min(_read_patience(server) for server in servers)
    return SplitProvider(trainer, Replicas(replicas, patience_s), workdir, canary)


def _connect(server: AnswerServer, workdir: Path, *, alone: bool) -> Provider:
    provider = registry.connect(server.address, _fill_from_start(server), workdir)
    if not provider.capabilities.adapter_server:
        raise InvalidSettings(
            f"[serving] names {server.address!r}, which is no server that adapters can be loaded "
            "into; use one of vLLM or SGLang, such as 'openai+http://127.0.0.1:8000/v1:BASE'"
        )
    if not alone:
        provider = provider.with_deadline(min(_SOON_S, _read_patience(server)))
    return provider


def _fill_from_start(server: AnswerServer) -> dict[str, object]:
    known = registry.read_settings_model(server.address.partition(":")[0].partition("+")[0])
    # What is no server is refused for that, not for a setting that nobody has written.
    if known is None or "limits" not in known.model_fields:
        return dict(server.settings)
    limits = server.settings.get("limits")
    written = limits if isinstance(limits, Mapping) else {}
    return {**server.settings, "limits": {"start_concurrent": _AT_ONCE, **written}}


def _read_patience(server: AnswerServer) -> float:
    # Checked by the provider when it was connected to.
    written = server.settings.get("give_up_after_s")
    return float(written) if isinstance(written, int | float) else RetryPolicy().give_up_after_s


class SplitProvider(ProviderWrapper):
    """Trains with `trainer`, answers with `replicas`.

    Models are named as the trainer names them, so what is stored does not depend on the servers. A
    tuned model can be asked once `load_adapters` has returned for it. The adapters loaded last stay
    loaded when the connection is closed, and the next one finds them. Divergences come from the
    trainer: servers give only the probabilities of chosen tokens.
    """

    def __init__(
        self,
        trainer: Provider,
        replicas: Replicas,
        workdir: Path,
        canary: Canary | None = None,
    ) -> None:
        super().__init__(trainer)
        self._canary = canary
        self._trainer = trainer
        self._replicas = replicas
        self._workdir = workdir.resolve()

    @property
    def capabilities(self) -> Capabilities:
        trainer = self._trainer.capabilities
        servers = [replica.provider.capabilities for replica in self._replicas]
        return replace(
            trainer,
            score=self._scores_there or trainer.score,
            sampling_seed=all(server.sampling_seed for server in servers),
            repeatable=all(server.repeatable for server in servers),
            # Of the trainer, these would be about a model that does not answer.
            batches=False,
            adapter_server=False,
        )

    async def complete(self, request: Request) -> Completion:
        async def call(server: Provider, model: ModelRef) -> Completion:
            completion = await server.complete(replace(request, model=model))
            if completion.thought is not None:
                # What the model sampled is lost, so nothing could be trained as it was said.
                raise InvalidSettings(
                    f"{server.base.address} returns thoughts apart from answers, so that models "
                    "trained on this machine would learn answers without them; start the server "
                    "without a reasoning parser (vLLM, SGLang: --reasoning-parser)"
                )
            return completion

        return await self._replicas.ask(request.model, request.messages, call)

    def validate_sampling(self, sampling: Sampling) -> Sequence[str]:
        faults = (replica.provider.validate_sampling(sampling) for replica in self._replicas)
        return list(dict.fromkeys(fault for found in faults for fault in found))

    async def score(self, model: ModelRef, messages: Sequence[Message], text: str) -> Score:
        if not self._scores_there:
            return await self._trainer.score(model, messages, text)

        async def call(server: Provider, model: ModelRef) -> Score:
            return await server.score(model, messages, text)

        return await self._replicas.ask(model, messages, call)

    async def load_adapters(self, models: Sequence[ModelRef]) -> None:
        """Load what is missing, and unload what is left of earlier calls and earlier processes."""
        tuned = [model for model in models if model.artifact is not None]
        if self._canary is not None and tuned:
            await self._canary.prepare(tuned)
        hashes = {m.artifact: m.sha256 for m in tuned if m.artifact is not None}
        await self._replicas.load(
            {artifact: await self._digest(artifact, sha) for artifact, sha in hashes.items()}
        )

    async def prepare_tuning(self, hyperparameters: Hyperparameters) -> None:
        """Try such adapters at the trainer, then at every server."""
        await self._trainer.prepare_tuning(hyperparameters)
        folder = self._workdir / TRIAL
        try:
            if await self._trainer.write_trial_adapter(hyperparameters, folder):
                await self.try_adapter(folder.name)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def try_adapter(self, folder: str) -> None:
        """Let every server load an adapter of `workdir` and answer with it once.

        Raises what a server says against it, such as too high a rank.
        """
        await self._replicas.try_adapter(folder)

    def lose_server(self, number: int, reason: str) -> None:
        """Let the others answer in place of one of several servers, which has ended."""
        self._replicas.lose(number, reason)

    async def replace_server(self, number: int, server: AnswerServer) -> None:
        """Let another server take the place of one that was lost; it gets its adapters first."""
        provider = _connect(server, self._workdir, alone=False)
        await self._replicas.move(number, server, provider)

    def with_deadline(self, give_up_after_s: float) -> SplitProvider:
        trainer = self._trainer.with_deadline(give_up_after_s)
        replicas = self._replicas.with_deadline(give_up_after_s)
        # A user who waits is not made to wait for the trainer to load the models, too.
        return SplitProvider(trainer, replicas, self._workdir)

    async def close(self) -> None:
        """Close trainer and servers, even if one fails to close."""
        # The first error is raised only after all have been closed.
        closing = (part.close() for part in (self._replicas, self._trainer))
        for outcome in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    @property
    def _scores_there(self) -> bool:
        return all(replica.provider.capabilities.score for replica in self._replicas)

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
