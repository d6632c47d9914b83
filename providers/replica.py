"""One of the servers that answer for models which are trained on this machine.

The adapters are loaded into it while it runs, under names that are never used twice: a server may
answer from caches that were filled under an earlier adapter of the same name
(https://github.com/vllm-project/vllm/issues/42125). None of our requests is in flight at the server
while an adapter is loaded or unloaded: one that was loaded under traffic once answered for another
(https://github.com/vllm-project/vllm/issues/47724).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TypeVar

from providers import registry
from providers.answer_server import AnswerServer
from providers.base import AdapterServer, Provider
from providers.canary import CANARIES, Canary
from providers.errors import ModelNotFound, ProviderError, RequestError, TimedOut, Unsupported
from providers.gate import Gate
from providers.types import LoadedAdapter, Message, ModelRef, Request, Sampling

T = TypeVar("T")
Call = Callable[[Provider, ModelRef], Awaitable[T]]
"""What is asked of a replica, given its connection and its own name for the model."""

TRIAL = ".trial"
"""How folders with an adapter begin, among those of the models, that servers try before any is
trained."""
_TOKEN_BYTES = 3


class Replica:
    """The server at `server.address` with its connection and the administration of its adapters.

    `calls` are on their way to it, `answers` have come. `failure` is why it takes no calls; None
    while it does. Both connections are closed with it. Example::

        replica = Replica(server, provider, provider.adapter_server(), workdir)
        await replica.load({"agent-1": "0f3a91cc"})
        answer = await replica.ask(model, lambda provider, model: provider.complete(...))
    """

    def __init__(
        self,
        server: AnswerServer,
        provider: Provider,
        adapters: AdapterServer,
        workdir: Path,
        canary: Canary | None = None,
    ) -> None:
        self._canary = canary
        self.server = server
        self.provider = provider
        self.calls = 0
        self.answers = 0
        self.failure: ProviderError | None = None
        self._adapters = adapters
        self._workdir = workdir.resolve()
        self._gate = Gate()
        self._names: dict[str, str] = {}
        self._scopes: set[asyncio.Timeout] = set()

    @property
    def address(self) -> str:
        return self.server.address

    async def ask(self, model: ModelRef, call: Call[T]) -> T:
        """The result of `call` for `model`, whose adapter has to be loaded.

        Raises its errors, and `TimedOut` if `abandon_calls` ends it.
        """
        self.calls += 1
        try:
            async with asyncio.timeout(None) as scope:
                self._scopes.add(scope)
                try:
                    async with self._gate.pass_through():
                        result = await call(self.provider, self._find(model))
                finally:
                    self._scopes.discard(scope)
        except TimeoutError:
            # `TimedOut` of the provider itself is a TimeoutError too.
            if not scope.expired():
                raise
            raise TimedOut(f"{self.address} does not answer; its calls were given up") from None
        finally:
            self.calls -= 1
        self.answers += 1
        return result

    def abandon_calls(self) -> None:
        """End all calls on their way with `TimedOut`."""
        now = asyncio.get_running_loop().time()
        for scope in list(self._scopes):
            # One that has expired already is being left.
            if not scope.expired():
                scope.reschedule(now)

    async def load(self, digests: Mapping[str, str]) -> None:
        """Load the adapters that are missing and unload what is left of earlier calls and earlier
        processes; `digests` are hashes of the adapters' files, by the name of their folder.
        """
        async with self._gate.hold():
            await self._exchange(digests)

    async def try_adapter(self, folder: str) -> bool:
        """Load an adapter from the run's folder of models, ask it for one token, and unload it.

        Raises what the server says against it. One that still has adapters of this run has taken
        such ones before, and may have no room for one more, so it is left alone: False.
        """
        name = f"{folder.lstrip('.')}-{secrets.token_hex(_TOKEN_BYTES)}"
        prompt, _ = CANARIES[0]
        sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=1)
        async with self._gate.hold():
            if await self._has_trained_ones():
                return False
            await self._load_trial(folder, name)
            try:
                model = ModelRef(name, self.provider.base.address, self._adapters.model_name(name))
                asked = Request(model, (Message("user", prompt),), sampling, name)
                await self.provider.complete(asked)
            finally:
                await self._unload(name)
        return True

    async def restart(self, digests: Mapping[str, str]) -> None:
        """The same at a server that may have been started anew: connect afresh.

        The calls on their way end first.
        """
        async with self._gate.hold():
            # Its limiter may have stopped all calls, and its connections may be dead.
            await self.provider.close()
            await self._exchange(digests)

    async def move(self, server: AnswerServer, provider: Provider) -> None:
        """From now on this is another server, without adapters yet.

        The calls on their way end first.
        """
        async with self._gate.hold():
            closing = (self._adapters.close(), self.provider.close())
            self.server, self.provider = server, provider
            self._adapters, self._names = provider.adapter_server(), {}
        # Its connections may be dead already.
        await asyncio.gather(*closing, return_exceptions=True)

    async def find_missing(self) -> list[str]:
        """The adapters that were loaded and that the server does not list any more."""
        expected = dict(self._names)
        if not expected:
            await self._adapters.list_loaded()
            return []
        listed = {adapter.name for adapter in await self._list_own()}
        # What was unloaded or exchanged meanwhile is not missed.
        return [
            artifact
            for artifact, name in expected.items()
            if name not in listed and self._names.get(artifact) == name
        ]

    def with_deadline(self, give_up_after_s: float) -> Replica:
        """The same server, with a connection of its own; see `Provider.with_deadline`."""
        provider = self.provider.with_deadline(give_up_after_s)
        return Replica(self.server, provider, provider.adapter_server(), self._workdir)

    async def close(self) -> None:
        """Close both connections, even if one fails to close."""
        closing = (self._adapters.close(), self.provider.close())
        for outcome in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    async def _exchange(self, digests: Mapping[str, str]) -> None:
        self._names = {}
        kept: dict[str, str] = {}
        for adapter in await self._list_own():
            artifact = PurePosixPath(adapter.path).name
            # The name holds a hash of the files: a retrained model in the same folder does not
            # match, so it is loaded under a new name.
            stem = f"{artifact}-{digests.get(artifact)}-"
            if artifact in kept or not adapter.name.startswith(stem):
                await self._unload(adapter.name)
            else:
                kept[artifact] = adapter.name
        for artifact, digest in digests.items():
            if artifact not in kept:
                kept[artifact] = await self._load(artifact, digest)
        self._names = kept
        if self._canary is not None:
            await self._try_adapters(self._canary)

    async def _try_adapters(self, canary: Canary) -> None:
        """Raise `AdapterNotApplied` if the server does not answer with its adapters."""
        if not canary.is_ready(self._names):
            return
        names = {name: self._find(ModelRef(name, "", name)) for name in self._names}
        server, own = self.provider, None
        if self._adapters.scores_texts and not server.capabilities.score:
            # Only the canary asks the server for log-probabilities then, not the run.
            settings = {**self.server.settings, "score": "vllm"}
            server = own = registry.connect(self.address, settings, self._workdir)
        try:
            await canary.check(server, names, self.address)
        finally:
            if own is not None:
                await own.close()

    def _find(self, model: ModelRef) -> ModelRef:
        """The model by the server's name for it."""
        if model.artifact is None:
            return self.provider.base
        name = self._names.get(model.artifact)
        if name is None:
            raise ModelNotFound(
                f"the tuned model {model.artifact!r} is not loaded at {self.address}; load it first"
            )
        address = self.provider.base.address
        return ModelRef(model.model_id, address, self._adapters.model_name(name))

    async def _list_own(self) -> list[LoadedAdapter]:
        """The adapters from this run's folder; those of other runs on the server are left alone."""
        return await list_own_adapters(self.server, self._adapters, self._workdir)

    async def _has_trained_ones(self) -> bool:
        """Whether the server has adapters of this run; what killed trials have left is unloaded."""
        own = await self._list_own()
        # They would pass for trained ones, and no server would be tried any more.
        left = [each for each in own if PurePosixPath(each.path).name.startswith(TRIAL)]
        for adapter in left:
            await self._unload(adapter.name)
        return len(own) > len(left)

    async def _load_trial(self, folder: str, name: str) -> None:
        try:
            await self._load_folder(folder, name)
        except Unsupported:
            # It has looked: the server does not have it.
            raise
        except BaseException:
            # The server may have loaded it although its answer was lost, or was not waited for.
            with suppress(ProviderError):
                await self._unload(name)
            raise

    async def _load(self, artifact: str, digest: str) -> str:
        name = f"{artifact}-{digest}-{secrets.token_hex(_TOKEN_BYTES)}"
        await self._load_folder(artifact, name)
        return name

    async def _load_folder(self, folder: str, name: str) -> None:
        path = self._workdir / folder
        if self.server.send is not None:
            await self.server.send(path)
        await self._adapters.load(name, self.server.map_path(path))

    async def _unload(self, name: str) -> None:
        try:
            await self._adapters.unload(name)
        except RequestError:
            # vLLM cannot unload what its cache has dropped already. The name is never used again.
            return


async def list_own_adapters(
    server: AnswerServer, adapters: AdapterServer, workdir: Path
) -> list[LoadedAdapter]:
    """The adapters of the folder `workdir` that a server has loaded; others are left out."""
    home = PurePosixPath(server.adapter_folder(workdir))
    loaded = await adapters.list_loaded()
    return [adapter for adapter in loaded if PurePosixPath(adapter.path).parent == home]
