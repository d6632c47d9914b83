"""The open providers of one experiment: one per base model that agents or the summarizer use.

Agents of one society may use different base models of different providers (`society.models`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from providers import registry
from providers.base import Provider
from providers.batched import BatchedProvider
from providers.cluster.settings import ClusterSettings
from providers.errors import Unsupported
from providers.serving.planning import ManagedServing
from providers.serving.provider import connect_managed
from providers.serving.settings import AdapterNeed
from providers.split import connect_split
from providers.types import BatchRecord, ModelRef
from society.config.schema import Config, base_address
from society.method.agents import Society
from society.method.arms import build_arms
from store.ledger import Store
from store.spending import Batch


@dataclass(frozen=True, slots=True)
class StoredBatches:
    """Implements `providers.base.BatchRecords` for the batches at one address."""

    store: Store
    provider: str

    async def all(self) -> Sequence[BatchRecord]:
        """Every record, oldest first."""
        return [
            BatchRecord(batch.digest, tuple(json.loads(batch.custom_ids)), batch.batch_id)
            for batch in self.store.batches(self.provider)
        ]

    async def save(self, record: BatchRecord) -> None:
        """Keep a record; returns once it is committed."""
        ids = json.dumps(record.custom_ids)
        await self.store.append(Batch(record.digest, self.provider, ids, record.batch_id))


class Connections(Mapping[str, Provider]):
    """Providers by the address of their base model. `summarizer` is the address of `model`.

    `evaluating` are the same models as they answer in evaluation: in batches, if `evaluation.batch`
    is set and the provider has batches. `batch_addresses` names those providers.

        connections = Connections.open(config, folder.models)
        society = connections.start_society()
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        agents: Sequence[str],
        summarizer: str,
        evaluating: Mapping[str, Provider] | None = None,
    ) -> None:
        self._providers = dict(providers)
        self.evaluating = self._providers if evaluating is None else dict(evaluating)
        self._agents = tuple(agents)
        self.summarizer = summarizer

    @classmethod
    def open(cls, config: Config, workdir: Path) -> Connections:
        """Connect to every model of an experiment; models that are trained in this process go to
        `workdir`.

        Raises the providers' errors.
        """
        providers = {address: _connect(config, address, workdir) for address in config.addresses}
        return cls(providers, config.agent_models, config.model)

    def with_deadline(self, give_up_after_s: float) -> Connections:
        """The same for a user who waits: a failing call is given up after so many seconds."""
        providers = {a: provider.with_deadline(give_up_after_s) for a, provider in self.items()}
        return Connections(providers, self._agents, self.summarizer)

    def with_batches(self, store: Store) -> Connections:
        """The same, evaluating in batches wherever a provider has them.

        Raises `Unsupported` where none has.
        """
        evaluating: dict[str, Provider] = {
            address: BatchedProvider(provider, provider.batches(StoredBatches(store, address)))
            for address, provider in self.items()
            if provider.capabilities.batches
        }
        if not evaluating:
            raise Unsupported(
                f"evaluation.batch = true, and none of {', '.join(self)} has batches; remove it"
            )
        return Connections(
            self._providers, self._agents, self.summarizer, {**self._providers, **evaluating}
        )

    @property
    def batch_addresses(self) -> frozenset[str]:
        """The addresses whose evaluation goes out in batches."""
        return frozenset(a for a, p in self.items() if self.evaluating[a] is not p)

    def __getitem__(self, address: str) -> Provider:
        return self._providers[address]

    def __iter__(self) -> Iterator[str]:
        return iter(self._providers)

    def __len__(self) -> int:
        return len(self._providers)

    def start_society(self, agents: int | None = None) -> Society:
        """The society of iteration 0, each agent with the base model of its own.

        `agents` is their number, by default that of the experiment's society; agents beyond those
        have the first agent's base.
        """
        count = len(self._agents) if agents is None else agents
        bases = [self.base_of(number) for number in range(1, count + 1)]
        return Society.from_bases(bases, self[self.summarizer].base)

    def base_of(self, agent: int) -> ModelRef:
        """The untuned model of agent `agent` (from 1); 0 is a model that all agents share."""
        return self[base_address(self._agents, agent)].base

    def listen(self, tell: Callable[[str], None]) -> None:
        """Let `tell` have what happens behind the calls, such as a server that is started."""
        for provider in self._providers.values():
            provider.listen(tell)

    async def load_adapters(self, models: Sequence[ModelRef]) -> None:
        """Make exactly these tuned models answerable, each at its own provider."""
        await asyncio.gather(
            *(
                provider.load_adapters([model for model in models if model.address == address])
                for address, provider in self.items()
            )
        )

    async def close(self) -> None:
        """Close every provider, even if closing one of them fails."""
        # The evaluating providers are the outermost wrappers, and closing a wrapper closes what it
        # wraps. One that fails to close must not keep the others from being closed.
        closing = (provider.close() for provider in self.evaluating.values())
        for outcome in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome


def _connect(config: Config, address: str, workdir: Path) -> Provider:
    settings, cluster = config.settings_of(address), plan_cluster(config)
    # Only `model` has servers of its own: agents with another base answer where they train.
    if config.serving is None or address != config.model:
        return registry.connect(address, settings, workdir, cluster)
    # A run that trains nothing has no adapters to try, and need not load the model for it.
    canary = config.serving.canary and config.iterations > 0
    if (managed := plan_serving(config)) is not None:
        served = replace(managed, canary=canary)
        return connect_managed(address, settings, served, workdir, cluster)
    servers = config.serving.list_servers()
    return connect_split(address, settings, servers, workdir, canary=canary, cluster=cluster)


def plan_cluster(config: Config) -> ClusterSettings | None:
    """The cluster that trains; None if this machine does, or nothing is trained."""
    if config.cluster is None or config.iterations == 0:
        return None
    return config.cluster.settings()


def plan_serving(config: Config) -> ManagedServing | None:
    """What the run's own server has to hold; None without one."""
    engine = None if config.serving is None else config.serving.engine_settings()
    if config.serving is None or engine is None:
        return None
    arms = [arm for arm in build_arms(config) if arm.iterations]
    # The arms debate one after another, each with the adapters of its own society.
    count = max((len(a.tuned) * (1 if a.shares_models else a.agents) for a in arms), default=0)
    ranks = [each.finetune.hyperparameters("generator").lora_rank for each in config.by_arm]
    cluster = None if config.cluster is None else config.cluster.settings()
    need = AdapterNeed(count, max(ranks))
    return ManagedServing(engine, need, config.serving.settings, cluster=cluster)
