"""Models that are trained in this process and answered by a server which the run starts itself.

Training and answering take turns on the device that both need: the server is stopped before a job
begins, and the trainer's memory is given back before the server starts. A server starts when the
first request of a stage comes, and stays until the next training or the end of the run.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

from providers import registry
from providers.base import Provider, Settings
from providers.canary import Canary
from providers.cluster.connection import connect_ray, list_nodes
from providers.cluster.settings import ClusterSettings
from providers.errors import AdapterNotApplied, ConnectionLost, InvalidSettings, RunError
from providers.gate import Gate
from providers.gathering import gather_or_cancel
from providers.local.machine import list_free_cards
from providers.replica import TRIAL
from providers.serving.cluster_server import place_servers
from providers.serving.engines import ServerPlan
from providers.serving.nodes import leaves_room
from providers.serving.planning import (
    OF_THE_PROMPT,
    ManagedServing,
    check_managed,
    open_form,
    plan_server,
)
from providers.serving.server import ManagedServer, RunServer, Tell
from providers.split import SplitProvider, join_servers
from providers.types import (
    AveragedModel,
    AverageSpec,
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
    Sampling,
    Score,
)
from providers.wrapper import ProviderWrapper

T = TypeVar("T")
_HEALTHY_ANSWERS = 100
"""A server that has given so many answers came up well; the next death counts as the first."""


def make_servers(plan: ServerPlan, workdir: Path) -> list[ManagedServer]:
    """One server for each group of this machine's graphics cards; a single one without any. They
    write beside `workdir`."""
    folder = workdir.resolve().parent
    gpus, size = plan.settings.gpus, plan.settings.gpus_per_server
    groups = [gpus[start : start + size] for start in range(0, len(gpus) - size + 1, size)] or [()]
    return [
        ManagedServer(plan, folder, number, group) for number, group in enumerate(groups, start=1)
    ]


def connect_managed(
    address: str,
    trainer: Settings,
    managed: ManagedServing,
    workdir: Path,
    cluster: ClusterSettings | None = None,
) -> ManagedProvider:
    """Open the trainer at `address`, beside a server that is started at the first request.

    The server's log is written beside `workdir`. Models are trained on the `cluster`, if there is
    one.
    """
    check_managed(managed, address, trainer)
    plan = plan_server(managed, address, trainer)
    for name in OF_THE_PROMPT:
        if value := trainer.get(name):
            managed = replace(managed, connection={**managed.connection, name: value})
    shares = _shares_device(managed, plan, trainer)

    def open_trainer() -> Provider:
        return registry.connect(address, trainer, workdir, cluster)

    async def open_servers() -> Sequence[RunServer]:
        if managed.cluster is None:
            return make_servers(plan, workdir)
        return await place_servers(managed.cluster, plan, workdir)

    return ManagedProvider(open_trainer, open_servers, plan, managed, workdir, shares_device=shares)


def _shares_device(managed: ManagedServing, plan: ServerPlan, trainer: Settings) -> bool:
    engine = managed.engine
    if engine.while_training != "auto":
        return engine.while_training == "stop"
    if managed.cluster is not None:
        nodes = list_nodes(connect_ray(managed.cluster))
        return not leaves_room(plan, nodes, trainer, has_cards=bool(list_free_cards()))
    device = str(trainer.get("device", "auto"))
    if device == "cpu":
        return plan.on_cpu
    kind, _, number = device.partition(":")
    known = kind == "cuda" and number and engine.gpus
    # Where it is not certain that they differ, sharing is safe and costs the restarts only.
    return not (known and int(number) not in engine.gpus)


class ManagedProvider(ProviderWrapper):
    """Trains with what `open_trainer` opens, answers with servers of its own, `open_servers`.

    Models are named as the trainer names them. `shares_device`: server and trainer cannot both hold
    the device. `listen` says where news go, such as the restart of a server that died. Errors of a
    server that does not come up, of a request that has to wait for it: `InvalidSettings`.

        provider = connect_managed("embedded:", {}, managed, Path("runs/a/models"))
        answer = await provider.complete(request)   # starts the server
        await provider.close()                      # ends it
    """

    def __init__(
        self,
        open_trainer: Callable[[], Provider],
        open_servers: Callable[[], Awaitable[Sequence[RunServer]]],
        plan: ServerPlan,
        managed: ManagedServing,
        workdir: Path,
        *,
        shares_device: bool,
    ) -> None:
        super().__init__(open_trainer())
        self._open_trainer, self._open_servers = open_trainer, open_servers
        self._plan, self._managed, self._workdir = plan, managed, workdir
        self._shares_device = shares_device
        self._trainer_holds = False
        self._servers: Sequence[RunServer] = ()
        self._canary = Canary(lambda: self._provider) if managed.canary else None
        self._tell: Tell = lambda text: None
        # Requests pass the gate; what stops the server waits until none is on its way.
        self._gate = Gate()
        self._change = asyncio.Lock()
        self._answering: SplitProvider | None = None
        self._trials: list[Path] = []
        self._death: asyncio.Task[str] | None = None
        self._wanted: tuple[ModelRef, ...] = ()
        self._loaded: tuple[ModelRef, ...] | None = None
        self._made: dict[str, ModelRef] = {}
        self._slots_used = 0
        self._answers = self._deaths = 0
        self._failure: RunError | None = None
        self._form = open_form(plan, managed)

    @property
    def capabilities(self) -> Capabilities:
        form = self._form.capabilities
        return replace(
            self._provider.capabilities,
            sampling_seed=form.sampling_seed,
            repeatable=form.repeatable,
            # Of the trainer, these would be about a model that does not answer.
            batches=False,
            adapter_server=False,
        )

    def validate_sampling(self, sampling: Sampling) -> Sequence[str]:
        return self._form.validate_sampling(sampling)

    def listen(self, tell: Callable[[str], None]) -> None:
        self._tell = tell

    async def complete(self, request: Request) -> Completion:
        async with self._gate.pass_through():
            while True:
                server, death = await self._bring_up()
                answer = await _unless(death, server.complete(request))
                if answer is not None:
                    self._answers += 1
                    return answer

    async def load_adapters(self, models: Sequence[ModelRef]) -> None:
        """Remember which models are asked next. They are loaded, and a server that is down is
        started, when the first request comes: what follows may need the trainer only.
        """
        async with self._gate.hold():
            self._wanted = tuple(model for model in models if model.artifact is not None)

    async def score(self, model: ModelRef, messages: Sequence[Message], text: str) -> Score:
        await self._take_device()
        return await self._provider.score(model, messages, text)

    async def divergences(
        self, p: ModelRef, others: Sequence[ModelRef], messages: Sequence[Message], text: str
    ) -> Sequence[Divergence]:
        await self._take_device()
        return await self._provider.divergences(p, others, messages, text)

    async def prepare_tuning(self, hyperparameters: Hyperparameters) -> None:
        """Try such adapters at the trainer now, and at the server once it is up: before its first
        answer, and without a start for this alone."""
        await self._take_device()
        await self._provider.prepare_tuning(hyperparameters)
        folder = self._workdir / f"{TRIAL}-{len(self._trials)}"
        self._trials.append(folder)
        if not await self._provider.write_trial_adapter(hyperparameters, folder):
            self._trials.remove(folder)

    async def submit(self, spec: FinetuneSpec) -> JobHandle:
        await self._take_device()
        return await self._provider.submit(spec)

    async def poll(self, handle: JobHandle) -> JobState:
        state = await self._provider.poll(handle)
        if state.model is not None:
            made = replace(state.model, sha256=state.artifact_sha256)
            self._made[made.model_id] = made
        return state

    async def average_models(self, spec: AverageSpec) -> AveragedModel:
        await self._take_device()
        return await self._provider.average_models(spec)

    def with_deadline(self, give_up_after_s: float) -> Self:
        # The server's start takes minutes, so there is nothing to be quicker at.
        return self

    async def close(self) -> None:
        """End the server, then close the trainer, even if one of them fails."""
        try:
            await self._shut_down()
        finally:
            for folder in self._trials:
                shutil.rmtree(folder, ignore_errors=True)
            await asyncio.gather(self._form.close(), self._provider.close())

    async def _take_device(self) -> None:
        """Before the trainer computes: stop the server if both need the device."""
        if self._shares_device:
            async with self._gate.hold(), self._change:
                await self._shut_down()
        self._trainer_holds = True

    async def _bring_up(self) -> tuple[Provider, asyncio.Task[str]]:
        """The server with the wanted adapters, and the task that ends with the server."""
        async with self._change:
            if self._failure is not None:
                raise self._failure
            try:
                await self._renew_if_needed()
                while self._answering is None or self._loaded != self._wanted:
                    await self._load_or_retry()
            except RunError as error:
                # The requests that wait with this one must not each try again.
                self._failure = error
                raise
            assert self._death is not None
            return self._answering, self._death

    async def _renew_if_needed(self) -> None:
        """Shut down a server that is dead, or whose slots do not last for what is wanted."""
        if self._death is not None and self._death.done():
            # Several are kept up by their own watch, which ends with what it could not mend.
            reason, server = self._death.result(), self._servers[0]
            await self._shut_down()
            self._count_death(server, reason)
        slots, new = self._plan.slots, self._count_new()
        if slots is not None and self._answering is not None and self._slots_used + new > slots:
            await self._shut_down()

    def _count_new(self) -> int:
        return len(set(self._wanted) - set(self._loaded or ()))

    def _count_death(self, server: RunServer, reason: str) -> None:
        self._deaths = 1 if self._answers >= _HEALTHY_ANSWERS else self._deaths + 1
        self._answers = 0
        most = self._managed.engine.restarts
        if self._deaths > most:
            raise InvalidSettings(
                f"the server died {self._deaths} times in a row, the last time since {reason} "
                f"(serving.restarts = {most}); its log is {server.log}"
            )
        self._tell(
            f"the server died: {reason}; it is started again ({self._deaths} of {most} times), and "
            f"the requests on their way are asked again; its log is {server.log}"
        )

    async def _load_or_retry(self) -> None:
        """Start the server and load the adapters; a second time if they do not reach it."""
        for last in (False, True):
            try:
                await self._load()
                return
            except AdapterNotApplied as error:
                await self._shut_down()
                if last:
                    raise
                self._tell(f"{error} It is started again once")

    async def _load(self) -> None:
        wanted = self._wanted
        if self._canary is not None and not self._canary.is_prepared(wanted):
            if self._shares_device:
                await self._shut_down()
            self._trainer_holds = True
            # Also the models of other arms, or the server would have to make room for each arm.
            await self._canary.prepare((*wanted, *self._made.values()))
            self._made = {}
        if self._answering is None:
            await self._start()
        assert self._answering is not None
        assert self._death is not None
        new = self._count_new()
        loading = self._load_after_trials(self._answering, wanted)
        if await _unless(self._death, _finish(loading)):
            self._slots_used += new
            self._loaded = wanted
        else:
            # Its death is counted, and a new one started, by the next turn of the loop.
            await self._renew_if_needed()

    async def _load_after_trials(self, server: SplitProvider, wanted: Sequence[ModelRef]) -> None:
        while self._trials:
            await server.try_adapter(self._trials[-1].name)
            self._slots_used += 1
            shutil.rmtree(self._trials.pop(), ignore_errors=True)
        await server.load_adapters(wanted)

    async def _start(self) -> None:
        if self._shares_device and self._trainer_holds:
            await self._provider.close()
            self._provider = self._open_trainer()
            self._trainer_holds = False
        self._servers = await self._open_servers()
        logs = ", ".join(dict.fromkeys(server.log for server in self._servers))
        number = len(self._servers)
        times = "" if number == 1 else f", {number} times"
        self._tell(f"{self._managed.engine.engine} is started to answer{times}; log: {logs}")
        await gather_or_cancel([server.start() for server in self._servers])
        self._answering = answering = join_servers(
            _Borrowed(self._provider),
            [server.describe(self._managed.connection) for server in self._servers],
            self._workdir,
            self._canary,
        )
        self._death = asyncio.create_task(self._watch(answering))

    async def _watch(self, answering: SplitProvider) -> str:
        """Return how a single server died; let others take the calls of one of several, and raise
        what keeps it from being started again."""
        if len(self._servers) == 1:
            return await self._servers[0].wait_for_death()
        await gather_or_cancel(
            [self._keep_up(number, answering) for number in range(len(self._servers))]
        )
        raise AssertionError("servers are kept up for ever")

    async def _keep_up(self, number: int, answering: SplitProvider) -> None:
        """Put a new server in the place of each that dies; the others answer meanwhile."""
        server = self._servers[number]
        while True:
            reason = await server.wait_for_death()
            # At once: calls on their way would fail one by one, or hang at a machine that is gone.
            answering.lose_server(number, reason)
            while True:
                self._count_death(server, reason)
                await server.stop()
                try:
                    await server.start()
                    break
                # The others answer, and on a cluster the next place may be on a better node.
                except InvalidSettings as error:
                    reason = str(error)
            await answering.replace_server(number, server.describe(self._managed.connection))

    async def _shut_down(self) -> None:
        answering, self._answering = self._answering, None
        death, self._death = self._death, None
        self._loaded, self._slots_used = None, 0
        try:
            if death is not None:
                death.cancel()
                # One that is being started again must not come up after the others have ended.
                await asyncio.gather(death, return_exceptions=True)
            if answering is not None:
                # Its connections may be dead already.
                with suppress(ConnectionLost):
                    await answering.close()
        finally:
            servers, self._servers = self._servers, ()
            await asyncio.gather(*(server.stop() for server in servers))


class _Borrowed(ProviderWrapper):
    """The trainer, for a connection that must not close it."""

    async def close(self) -> None:
        return


async def _finish(work: Awaitable[None]) -> bool:
    await work
    return True


async def _unless(death: asyncio.Task[str], work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`, or None if the server dies before it comes."""
    call = asyncio.create_task(work)
    try:
        await asyncio.wait((call, death), return_when=asyncio.FIRST_COMPLETED)
        if death.done() and not (call.done() and call.exception() is None):
            return None
        return await call
    finally:
        # Retries at a dead server would go on for minutes.
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
