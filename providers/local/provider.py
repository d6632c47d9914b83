"""The provider contract (`providers.base`) for models in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from providers.base import Provider
from providers.local.backbone import open_tokenizer
from providers.local.conversation import describe_template
from providers.local.engine import Engine
from providers.local.jobs import LocalJobs
from providers.local.models import LocalModels
from providers.local.quantization import find_training_faults, read_format
from providers.local.settings import (
    CAPABILITIES,
    LocalSettings,
    find_unsupported,
    find_unsupported_sampling,
)
from providers.local.source import ModelSource, read_config
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
    PromptTemplate,
    Request,
    Sampling,
    Score,
)


class LocalProvider(Provider):
    """One base model with its LoRA adapters and full fine-tunes; see `providers.base.Provider`.

    The weights are loaded at the first request. Artifacts are folders under `workdir`, named by
    `FinetuneSpec.name`, and `ModelRef.artifact` is that name, so that a run folder can be moved. An
    answer that reaches the end of the model's context is cut there, as if by `max_tokens`; a prompt
    that fills the context raises `ContextOverflow`.

    ```python
    provider = registry.connect("local:./my-model", {}, Path("models"))
    question = (Message("user", "What is 2+2?"),)
    request = Request(provider.base, question, Sampling(max_tokens=64), key="q1")
    completion = await provider.complete(request)
    ```
    """

    def __init__(
        self, address: str, source: ModelSource, settings: LocalSettings, workdir: Path
    ) -> None:
        self._base = ModelRef(address, address)
        self._source, self._settings = source, settings
        self._models = LocalModels(source, settings, workdir)
        self._engine = Engine(self._models, settings)
        self._jobs = LocalJobs(self._engine, self._models, workdir, address)

    @property
    def base(self) -> ModelRef:
        return self._base

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    async def complete(self, request: Request) -> Completion:
        return await asyncio.wrap_future(self._engine.answer(request))

    async def score(self, model: ModelRef, messages: Sequence[Message], text: str) -> Score:
        return await asyncio.wrap_future(self._engine.score(model.artifact, messages, text))

    async def divergences(
        self, p: ModelRef, others: Sequence[ModelRef], messages: Sequence[Message], text: str
    ) -> Sequence[Divergence]:
        """See `Provider.divergences`. Full fine-tunes are held in memory side by side."""
        artifacts = [model.artifact for model in (p, *others)]
        return await asyncio.wrap_future(self._engine.compare(artifacts, messages, text))

    def validate_hyperparameters(self, hyperparameters: Hyperparameters) -> Sequence[str]:
        stored = read_format(read_config(self._source))
        return (
            *find_unsupported(hyperparameters),
            *find_training_faults(stored, self._settings, hyperparameters),
        )

    async def prepare_tuning(self, hyperparameters: Hyperparameters) -> None:
        """Try adapters of this configuration; see `LocalModels.check_tuning`."""
        await asyncio.wrap_future(
            self._engine.run(lambda: self._models.check_tuning(hyperparameters))
        )

    async def read_template(self) -> PromptTemplate:
        # The model itself may not be needed, such as when a server answers in its place.
        return await asyncio.to_thread(self._describe_template)

    def _describe_template(self) -> PromptTemplate:
        return describe_template(open_tokenizer(self._source, self._settings))

    def validate_sampling(self, sampling: Sampling) -> Sequence[str]:
        return find_unsupported_sampling(sampling)

    async def submit(self, spec: FinetuneSpec) -> JobHandle:
        # A fit must not start from weights that were changed since they were trained.
        self._models.expect([spec.start])
        return await asyncio.to_thread(self._jobs.submit, spec)

    async def find(self, spec: FinetuneSpec) -> JobHandle | None:
        return await asyncio.to_thread(self._jobs.find, spec)

    async def poll(self, handle: JobHandle) -> JobState:
        return await asyncio.to_thread(self._jobs.poll, handle)

    async def cancel(self, handle: JobHandle) -> None:
        self._jobs.cancel(handle)

    async def load_adapters(self, models: Sequence[ModelRef]) -> None:
        self._models.expect(models)
        # Through the engine: the device's thread may be using the very models that are forgotten.
        artifacts = [model.artifact for model in models if model.artifact is not None]
        await asyncio.wrap_future(self._engine.run(lambda: self._models.keep(artifacts)))

    async def close(self) -> None:
        """Drop waiting work, stop jobs with a checkpoint, free the memory."""
        self._jobs.stop()
        await asyncio.to_thread(self._engine.close)
