"""The open providers of one experiment: one per base model its agents and summarizer use.

Agents of one society may use different base models of different providers (`society.models`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from providers import registry, served
from providers.base import ModelRef, Provider
from society.agents import Society
from society.config import Config


class Connections(Mapping[str, Provider]):
    """Providers by the address of their base model. `summarizer` is the address of `model`."""

    def __init__(
        self, providers: Mapping[str, Provider], agents: Sequence[str], summarizer: str
    ) -> None:
        self._providers = dict(providers)
        self._agents = tuple(agents)
        self.summarizer = summarizer

    @classmethod
    def open(cls, config: Config, workdir: Path) -> Connections:
        """Connect to every model of an experiment; artifacts made here go under `workdir`.

        Raises the providers' errors.
        """
        providers = {address: _connect(config, address, workdir) for address in config.addresses}
        return cls(providers, config.agent_models, config.model)

    def __getitem__(self, address: str) -> Provider:
        return self._providers[address]

    def __iter__(self) -> Iterator[str]:
        return iter(self._providers)

    def __len__(self) -> int:
        return len(self._providers)

    def untuned(self) -> Society:
        """The society of iteration 0, each agent with the base model of its own."""
        bases = [self[address].base for address in self._agents]
        return Society.untuned(bases, self[self.summarizer].base)

    def base_of(self, agent: int) -> ModelRef:
        """The untuned model of agent `agent` (from 1)."""
        return self[self._agents[agent - 1]].base

    async def serve(self, models: Sequence[ModelRef]) -> None:
        """Make exactly these tuned models answerable, each at its own provider."""
        await asyncio.gather(
            *(
                provider.serve([model for model in models if model.address == address])
                for address, provider in self.items()
            )
        )

    async def close(self) -> None:
        """Close every provider, also where one fails to."""
        closing = (provider.close() for provider in self.values())
        for outcome in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome


def _connect(config: Config, address: str, workdir: Path) -> Provider:
    settings = config.settings_of(address)
    if config.serving is None or address != config.model:
        return registry.connect(address, settings, workdir)
    return served.connect(address, settings, config.serving.as_serving(), workdir)
