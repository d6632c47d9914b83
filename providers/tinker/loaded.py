"""The adapters in a server's memory: made, loaded again when they are gone, given back.

Some servers answer only with adapters that are in memory, and have few slots for them. At others,
such as Thinking Machines, a saved path is enough, and nothing here costs anything.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import tinker

from providers.errors import InvalidSettings
from providers.tinker.connection import TinkerConnection
from providers.tinker.errors import SlotsFull
from providers.tinker.paths import sampler_path, split_path, state_path
from providers.tinker.slots import SlotRecord, take_abandoned
from providers.types import ModelRef

# An unloaded adapter leaves its slot once the server comes to it.
_TRIES = 8
_PAUSE_S = 0.5


class LoadedModels:
    """What one connection has in memory. `workdir` holds the record of its slots.

    loaded = LoadedModels(connection, workdir)
    client = await loaded.create(rank=16, seed=0, metadata={})
    sampler = await loaded.get_sampler(model)
    """

    def __init__(self, connection: TinkerConnection, workdir: Path) -> None:
        self._connection = connection
        self._workdir = workdir
        self._record = SlotRecord(workdir)
        self._samplers: dict[str | None, Any] = {}
        # The adapters that answer for an artifact, by it; those in training are held only.
        self._answering: dict[str, Any] = {}
        self._locks: defaultdict[str | None, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def create(self, rank: int, seed: int | None, metadata: Mapping[str, str]) -> Any:
        """A client that trains a fresh adapter.

        Raises `SlotsFull` if none of the slots is free or held for answers only.
        """
        service, model = self._connection.service, self._connection.model

        def start() -> Awaitable[Any]:
            # Without the output layer, as on this machine; models with tied embeddings refuse it.
            client: Awaitable[Any] = service.create_lora_training_client_async(
                model, rank, seed, train_unembed=False, user_metadata=dict(metadata)
            )
            return client

        return await self._claim(start)

    async def restore(
        self, path: str, rank: int | None, metadata: Mapping[str, str], *, optimizer: bool
    ) -> Any:
        """A client that trains on from a saved state, with or without that of its optimizer.

        Raises `ModelNotFound` if there is no such state, and `InvalidSettings` if it has not
        `rank`, where one is given.
        """
        state, call = state_path(path), self._connection.call
        rest = self._connection.rest
        info = await call("a look", lambda: _await(rest.get_weights_info_by_tinker_path(state)))
        if rank is not None and info.lora_rank not in (None, rank):
            raise InvalidSettings(
                f"finetune.lora_rank = {rank}: training continues from an adapter of rank "
                f"{info.lora_rank}; set the same rank, or start from the base"
            )
        if not self._connection.has_slots:
            service = self._connection.service
            make = (
                service.create_training_client_from_state_with_optimizer_async
                if optimizer
                else service.create_training_client_from_state_async
            )
            return await call("a saved state", lambda: make(state, user_metadata=dict(metadata)))
        # In two steps, so that a state that cannot be loaded leaves no slot behind.
        client = await self.create(info.lora_rank or rank or 0, None, metadata)
        load = client.load_state_with_optimizer if optimizer else client.load_state
        try:
            await self._use_up_gradient(client)
            await call("a saved state", lambda: load(state))
        except BaseException:
            await self.release(client)
            raise
        return client

    async def start_clean(self, client: Any, name: str) -> None:
        """Free a fresh adapter of what its slot has kept; its state is saved as `name` for that."""
        if not self._keeps_gradients:
            return
        call = self._connection.call
        saved = await call("a saved state", lambda: client.save_state(name))
        await self._use_up_gradient(client)
        await call("a saved state", lambda: client.load_state_with_optimizer(saved.path))

    def adopt(self, artifact: str, client: Any) -> None:
        """The adapter of `client` was saved as `artifact`, and answers for it from now on."""
        self._samplers.pop(artifact, None)
        self._answering[artifact] = client

    async def release(self, client: Any) -> None:
        """Give the slot of an adapter back."""
        model_id = str(client.model_id)
        await self._connection.unload(model_id)
        self._record.remove(model_id)

    async def get_sampler(self, model: ModelRef) -> Any:
        """The SDK's client that answers for a model."""
        async with self._locks[model.artifact]:
            if model.artifact not in self._samplers:
                self._samplers[model.artifact] = await self._open_sampler(model.artifact)
            return self._samplers[model.artifact]

    async def reload(self, model: ModelRef, gone: Any) -> Any:
        """Another sampler in place of one whose adapter the server has no longer in memory."""
        artifact = str(model.artifact)
        async with self._locks[artifact]:
            # Others that met the same have done it.
            if (now := self._samplers.get(artifact)) is not None and now is not gone:
                return now
            if (client := self._answering.pop(artifact, None)) is not None:
                await self.release(client)
            client = await self.restore(artifact, None, {"model": model.model_id}, optimizer=False)
            try:
                _, name = split_path(artifact)
                saved = await self._connection.call(
                    "saved weights", lambda: client.save_weights_for_sampler(name)
                )
                sampler = await self._open_sampler(saved.path)
            except BaseException:
                await self.release(client)
                raise
            self._answering[artifact] = client
            self._samplers[artifact] = sampler
            return sampler

    async def keep(self, artifacts: Iterable[str]) -> None:
        """Give back the slots of all adapters that answer, but for these."""
        kept = set(artifacts)
        for artifact in [name for name in self._answering if name not in kept]:
            await self._drop(artifact)

    async def close(self) -> None:
        """Give all slots back."""
        for model_id in self._record.held:
            await self._connection.unload(model_id)
        self._record.close()

    @property
    def _keeps_gradients(self) -> bool:
        # SkyRL's JAX backend: a slot keeps the gradient of an adapter whose client was killed
        # between a pass and its step, also when the adapter is unloaded, and the next one in the
        # slot would begin with it.
        return self._connection.settings.loss_reduction == "mean"

    async def _use_up_gradient(self, client: Any) -> None:
        """Apply what the slot has kept, at a rate of 0. It remains in the optimizer's moments, so
        that a state has to be loaded afterwards."""
        if self._keeps_gradients:
            idle = tinker.AdamParams(learning_rate=0.0)
            await self._connection.call("a clean slot", lambda: client.optim_step(idle))

    async def _open_sampler(self, artifact: str | None) -> Any:
        service, model = self._connection.service, self._connection.model
        if artifact is None:
            return await self._connection.call(
                "a sampler", lambda: service.create_sampling_client_async(base_model=model)
            )
        path = sampler_path(artifact)
        return await self._connection.call(
            "a sampler", lambda: service.create_sampling_client_async(model_path=path)
        )

    async def _claim(self, start: Callable[[], Awaitable[Any]]) -> Any:
        """What `start` makes, in a slot of those that are free, abandoned, or only answer."""
        for model_id in take_abandoned(self._workdir):
            await self._connection.unload(model_id)
        for tries in range(_TRIES):
            try:
                client = await self._connection.call("a new adapter", start)
            except SlotsFull:
                if tries == _TRIES - 1:
                    raise
            else:
                if self._connection.has_slots:
                    self._record.add(str(client.model_id))
                return client
            if self._answering:
                await self._drop(next(iter(self._answering)))
            await asyncio.sleep(_PAUSE_S)
        raise AssertionError

    async def _drop(self, artifact: str) -> None:
        self._samplers.pop(artifact, None)
        await self.release(self._answering.pop(artifact))


def _await(future: Any) -> Any:
    """What older SDKs return as a future of threads, as something to await."""
    return future if hasattr(future, "__await__") else asyncio.wrap_future(future)
