"""The provider contract (`providers.base`) for models in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from providers.artifact import publish_folder, read_manifest, set_aside
from providers.base import Provider
from providers.cluster.settings import ClusterSettings
from providers.errors import InvalidSettings, StorageFailed
from providers.local.averaging import Part, find_averaging_faults, write_average
from providers.local.cluster_plan import plan_unconnected
from providers.local.cluster_workers import ClusterWorkers
from providers.local.conversation import describe_template
from providers.local.engine import Engine
from providers.local.hardware import choose_device
from providers.local.jobs import LocalJobs
from providers.local.lane_plan import LanePlan, plan_lanes
from providers.local.machine import list_cards
from providers.local.merging import write_merged
from providers.local.models import LocalModels
from providers.local.quantization import find_training_faults, read_format
from providers.local.settings import (
    CAPABILITIES,
    LocalSettings,
    find_unsupported,
    find_unsupported_sampling,
)
from providers.local.source import ModelSource, read_config
from providers.local.training_lanes import TrainingLanes
from providers.local.training_worker import WorkerSetup
from providers.local.worker_process import WorkerProcess
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
    PromptTemplate,
    Request,
    Sampling,
    Score,
)

_ALL_JOBS = 1024


class LocalProvider(Provider):
    """One base model with its LoRA adapters and full fine-tunes; see `providers.base.Provider`.

    The weights are loaded at the first request. Artifacts are folders under `workdir`, named by
    `FinetuneSpec.name`, and `ModelRef.artifact` is that name, so that a run folder can be moved. An
    answer that reaches the end of the model's context is cut there, as if by `max_tokens`; a prompt
    that fills the context raises `ContextOverflow`. With a `cluster`, training is done there.

    ```python
    provider = registry.connect("local:./my-model", {}, Path("models"))
    question = (Message("user", "What is 2+2?"),)
    request = Request(provider.base, question, Sampling(max_tokens=64), key="q1")
    completion = await provider.complete(request)
    ```
    """

    def __init__(
        self,
        address: str,
        source: ModelSource,
        settings: LocalSettings,
        workdir: Path,
        cluster: ClusterSettings | None = None,
    ) -> None:
        self._base = ModelRef(address, address)
        self._source, self._settings, self._workdir = source, settings, workdir
        self._models = LocalModels(source, settings, workdir)
        self._engine = Engine(self._models, settings)
        self._cluster = None if cluster is None else ClusterWorkers(cluster, source, settings)
        self._plan = _plan_lanes(settings) if self._cluster is None else plan_unconnected(settings)
        setup = WorkerSetup(source, settings, workdir)
        open_link = WorkerProcess if self._cluster is None else self._cluster.open
        self._lanes = TrainingLanes(self._engine, self._models, self._plan, setup, open_link)
        self._jobs = LocalJobs(self._lanes, workdir, address)

    @property
    def base(self) -> ModelRef:
        return self._base

    @property
    def capabilities(self) -> Capabilities:
        # All jobs wait here, so that those that share their passes are together, none waits for
        # the next question about another's state, and it is known how much work there is for one
        # more worker.
        alone = self._plan.lanes == 1 and self._settings.joint_training == "off"
        alone = alone and self._cluster is None
        return replace(CAPABILITIES, max_parallel_jobs=1 if alone else _ALL_JOBS)

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
        """Try adapters of this configuration, see `LocalModels.check_tuning`, and wait until a
        cluster has room for a job."""
        if self._cluster is not None:
            await asyncio.to_thread(self._cluster.require_place, hyperparameters)
        await asyncio.wrap_future(
            self._engine.run(lambda: self._models.check_tuning(hyperparameters))
        )

    async def write_trial_adapter(self, hyperparameters: Hyperparameters, folder: Path) -> bool:
        if hyperparameters.method != "lora":
            return False
        work = self._engine.run(lambda: self._models.write_trial(hyperparameters, folder))
        await asyncio.wrap_future(work)
        return True

    async def read_template(self) -> PromptTemplate:
        # The model itself may not be needed, such as when a server answers in its place.
        return await asyncio.to_thread(self._describe_template)

    def _describe_template(self) -> PromptTemplate:
        return describe_template(self._models.open_tokenizer())

    def validate_sampling(self, sampling: Sampling) -> Sequence[str]:
        return find_unsupported_sampling(sampling)

    async def submit(self, spec: FinetuneSpec) -> JobHandle:
        # A fit must not start from weights that were changed since they were trained.
        self._models.expect([spec.start])
        if self._cluster is not None:
            plan = await asyncio.to_thread(self._cluster.plan_lanes, spec.hyperparameters)
            self._lanes.renew(plan)
        return await asyncio.to_thread(self._jobs.submit, spec)

    async def find(self, spec: FinetuneSpec) -> JobHandle | None:
        return await asyncio.to_thread(self._jobs.find, spec)

    async def poll(self, handle: JobHandle) -> JobState:
        return await asyncio.to_thread(self._jobs.poll, handle)

    async def cancel(self, handle: JobHandle) -> None:
        self._jobs.cancel(handle)

    def validate_averaging(self, hyperparameters: Hyperparameters) -> Sequence[str]:
        return find_averaging_faults(hyperparameters)

    async def average_models(self, spec: AverageSpec) -> AveragedModel:
        self._models.expect(part.model for part in spec.parts)
        return await asyncio.to_thread(self._average, spec)

    async def merge_model(self, model: ModelRef, folder: Path) -> None:
        """Merge beside the models that answer, which stay as they are."""
        if model.artifact is None:
            raise self._make_unsupported("is the base model, which is whole as it is")
        self._models.expect([model])
        artifact = await asyncio.to_thread(self._models.verify_folder, model.artifact)
        await asyncio.to_thread(write_merged, self._source, self._settings, artifact, folder)

    async def load_adapters(self, models: Sequence[ModelRef]) -> None:
        self._models.expect(models)
        # Through the engine: the device's thread may be using the very models that are forgotten.
        artifacts = [model.artifact for model in models if model.artifact is not None]
        await asyncio.wrap_future(self._engine.run(lambda: self._models.keep(artifacts)))

    def _average(self, spec: AverageSpec) -> AveragedModel:
        """See `Provider.average_models`; needs no model in memory, so any thread may do it."""
        out = self._workdir / spec.name
        if (made := read_manifest(out, spec.digest)) is None:
            parts = [
                Part(self._models.verify_folder(str(part.model.artifact)), part.weight)
                for part in spec.parts
            ]

            def fill(folder: Path) -> Mapping[str, object]:
                facts = {"digest": spec.digest, "name": spec.name, "base": self._base.address}
                return {**facts, "truncation": write_average(parts, folder)}

            try:
                if out.exists():
                    set_aside(out)
                publish_folder(out, fill)
            except OSError as error:
                raise StorageFailed(
                    f"{spec.name!r} cannot be written to {self._workdir}: {error}; free some space "
                    "there, or make it writable"
                ) from error
            made = read_manifest(out, spec.digest)
            assert made is not None
        model = ModelRef(spec.name, self._base.address, spec.name, made["sha256"])
        return AveragedModel(model, made["truncation"])

    async def close(self) -> None:
        """Drop waiting work, stop jobs with a checkpoint, free the memory."""
        self._jobs.stop()
        await asyncio.to_thread(self._jobs.close)
        await asyncio.to_thread(self._engine.close)


def _plan_lanes(settings: LocalSettings) -> LanePlan:
    try:
        device = choose_device(settings).type
    except InvalidSettings:
        # Said when the model is loaded for the first time.
        device = "cpu"
    cards = list_cards()[: torch.cuda.device_count()] if device == "cuda" else ()
    return plan_lanes(settings, device, cards)
