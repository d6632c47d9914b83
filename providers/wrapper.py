"""A provider around another one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from providers.base import AdapterServer, BatchClient, BatchRecords, Provider
from providers.deployments import Deployment
from providers.types import (
    AveragedModel,
    AverageSpec,
    Capabilities,
    Completion,
    Divergence,
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


class ProviderWrapper(Provider):
    """A provider around another one. It forwards every operation; a subclass overrides some.

    Every operation that `Provider` gets belongs here too: a wrapper that inherits the default hides
    what the wrapped provider can do. `tests/providers/test_wrapper.py` compares the two.
    """

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    @property
    def base(self) -> ModelRef:
        return self._provider.base

    @property
    def capabilities(self) -> Capabilities:
        return self._provider.capabilities

    async def complete(self, request: Request) -> Completion:
        return await self._provider.complete(request)

    async def read_template(self) -> PromptTemplate | None:
        return await self._provider.read_template()

    def listen(self, tell: Callable[[str], None]) -> None:
        self._provider.listen(tell)

    def validate_sampling(self, sampling: Sampling) -> Sequence[str]:
        return self._provider.validate_sampling(sampling)

    async def score(self, model: ModelRef, messages: Sequence[Message], text: str) -> Score:
        return await self._provider.score(model, messages, text)

    async def divergences(
        self, p: ModelRef, others: Sequence[ModelRef], messages: Sequence[Message], text: str
    ) -> Sequence[Divergence]:
        return await self._provider.divergences(p, others, messages, text)

    def validate_hyperparameters(self, hyperparameters: Hyperparameters) -> Sequence[str]:
        return self._provider.validate_hyperparameters(hyperparameters)

    async def submit(self, spec: FinetuneSpec) -> JobHandle:
        return await self._provider.submit(spec)

    async def find(self, spec: FinetuneSpec) -> JobHandle | None:
        return await self._provider.find(spec)

    async def poll(self, handle: JobHandle) -> JobState:
        return await self._provider.poll(handle)

    async def cancel(self, handle: JobHandle) -> None:
        await self._provider.cancel(handle)

    async def prepare_tuning(self, hyperparameters: Hyperparameters) -> None:
        await self._provider.prepare_tuning(hyperparameters)

    async def write_trial_adapter(self, hyperparameters: Hyperparameters, folder: Path) -> bool:
        return await self._provider.write_trial_adapter(hyperparameters, folder)

    def validate_averaging(self, hyperparameters: Hyperparameters) -> Sequence[str]:
        return self._provider.validate_averaging(hyperparameters)

    async def average_models(self, spec: AverageSpec) -> AveragedModel:
        return await self._provider.average_models(spec)

    async def load_adapters(self, models: Sequence[ModelRef]) -> None:
        await self._provider.load_adapters(models)

    async def download_model(self, model: ModelRef, folder: Path) -> None:
        await self._provider.download_model(model, folder)

    async def merge_model(self, model: ModelRef, folder: Path) -> None:
        await self._provider.merge_model(model, folder)

    async def delete_model(self, model: ModelRef) -> None:
        await self._provider.delete_model(model)

    async def list_deployments(self, models: Sequence[ModelRef]) -> Sequence[Deployment]:
        return await self._provider.list_deployments(models)

    async def delete_deployment(self, deployment: Deployment) -> None:
        await self._provider.delete_deployment(deployment)

    def batches(self, records: BatchRecords) -> BatchClient:
        return self._provider.batches(records)

    def adapter_server(self) -> AdapterServer:
        return self._provider.adapter_server()

    def with_deadline(self, give_up_after_s: float) -> Self:
        # The copy wraps the quicker connection, so that a budget still counts its calls.
        quicker = copy.copy(self)
        quicker._provider = self._provider.with_deadline(give_up_after_s)
        return quicker

    async def preflight(self, need: Need) -> Sequence[Finding]:
        return await self._provider.preflight(need)

    async def close(self) -> None:
        await self._provider.close()
