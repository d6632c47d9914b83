"""Cancelling the fine-tuning jobs of a run that go on elsewhere although nobody works on the run.

Stopping a run leaves its remote jobs running on purpose: starting it again adopts them. This is for
when they are no longer wanted.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from evals import reading
from providers import registry
from providers.base import FinetuneSpec, JobHandle, JobState, ModelRef, Provider
from providers.batching import Batching
from providers.errors import JobError, ProviderError
from providers.examination import trains_in_process
from society.agents import Society
from society.batches import StoredBatches
from society.config import Config
from society.iterate import society_after
from society.runs import RunFolder
from society.tuning import plan
from store.errors import StoreError
from store.ledger import Store
from store.records import Job, utc_now

_OPEN = ("intent", "submitted", "running")
_REASON = "cancelled by `society cancel`"
_MOST_ATTEMPTS = 100

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Waits:
    """How long a server has to end a job it was asked to cancel: looks, and seconds in between."""

    looks: int = 5
    pause_s: float = 1.0


async def cancel(folder: RunFolder, store: Store, tell: Tell, waits: Waits | None = None) -> int:
    """Cancel every job of the run that is under way elsewhere, record it and tell what was done.

    Returns how many could not be dealt with. A job that has succeeded meanwhile stays as it is.
    Raises `NothingStored` for a database without a run, and the store's errors.
    """
    config = Config.from_json(reading.run_of(store).config)
    jobs = open_jobs(store)
    by_address: dict[str, list[Job]] = {a: [] for a in config.addresses if store.batches(a)}
    if not jobs and not by_address:
        tell("no fine-tuning job of this run is under way")
        return 0
    for job in jobs:
        by_address.setdefault(address_of(config, job), []).append(job)
    failures = 0
    for address, found in by_address.items():
        if trains_in_process(address):
            for job in found:
                tell(f"{_title(job)}: trained in the process of the run itself, which has ended")
            continue
        failures += await _at(folder, config, store, address, found, tell, waits or Waits())
    return failures


def open_jobs(store: Store) -> list[Job]:
    """The jobs that were meant to be submitted and of which no end is known."""
    return [job for job in store.jobs() if job.status in _OPEN]


def running_elsewhere(database: Path) -> int:
    """How many jobs of a stopped run go on at a provider; 0 where the database cannot be read."""
    try:
        with Store.open(database, read_only=True) as store:
            run = store.run()
            if run is None:
                return 0
            config = Config.from_json(run.config)
            return sum(not trains_in_process(address_of(config, job)) for job in open_jobs(store))
    except StoreError:
        return 0


def address_of(config: Config, job: Job) -> str:
    """The address of the base model that a job tunes; agent 0 is shared by all."""
    return config.agent_models[job.agent - 1] if job.agent else config.model


async def _at(
    folder: RunFolder,
    config: Config,
    store: Store,
    address: str,
    jobs: Sequence[Job],
    tell: Tell,
    waits: Waits,
) -> int:
    try:
        provider = registry.connect(address, config.settings_of(address), folder.models)
    except ProviderError as error:
        tell(f"{address}: {error}")
        return len(jobs)
    failures = 0
    try:
        if isinstance(provider, Batching) and store.batches(address):
            ended = await provider.batches(StoredBatches(store, address)).cancel()
            tell(f"{address}: {ended} batch(es) cancelled")
        for job in jobs:
            canceller = _Canceller(provider, store, config, folder.name, waits)
            try:
                tell(f"{_title(job)}: {await canceller.cancel(job)}")
            except (ProviderError, Unrecognized) as error:
                failures += 1
                tell(f"{_title(job)}: not cancelled: {error}")
    finally:
        await provider.close()
    return failures


class Unrecognized(Exception):
    """A job whose description cannot be put together again, so that nobody can look for it."""


class _Canceller:
    def __init__(
        self, provider: Provider, store: Store, config: Config, run: str, waits: Waits
    ) -> None:
        self._provider = provider
        self._store = store
        self._config = config
        self._run = run
        self._waits = waits

    async def cancel(self, job: Job) -> str:
        """What became of the job."""
        handle = await self._handle(job)
        if handle is None:
            await self._record(job, "never created")
            return "was never created"
        job = replace(job, provider_job_id=handle.job_id)
        try:
            state = await self._provider.poll(handle)
        except JobError as error:
            await self._record(job, "unknown")
            return f"is not there any more ({error})"
        if not state.done:
            await self._provider.cancel(handle)
            state = await self._ended(handle)
        if state.status == "succeeded":
            return f"{handle.job_id} had succeeded before; running again takes its model"
        if state.status == "failed":
            job = replace(job, status="failed", error=state.error, finished_at=utc_now())
            await self._store.append(replace(job, raw_status=state.raw_status))
            return f"{handle.job_id} had failed before: {state.error or state.raw_status}"
        await self._record(replace(job, trained_tokens=state.trained_tokens), state.raw_status)
        return f"{handle.job_id} is cancelled ({state.raw_status})"

    async def _handle(self, job: Job) -> JobHandle | None:
        if job.provider_job_id is not None:
            return JobHandle(job.provider_job_id, job.job_id, job.digest)
        return await self._provider.find(description(self._store, self._config, self._run, job))

    async def _ended(self, handle: JobHandle) -> JobState:
        """The state once the server has ended the job, or the last one it told."""
        for look in itertools.count(1):
            state = await self._provider.poll(handle)
            if state.done or look >= self._waits.looks:
                return state
            await asyncio.sleep(self._waits.pause_s)
        raise AssertionError

    async def _record(self, job: Job, raw_status: str) -> None:
        await self._store.append(
            replace(
                job,
                status="cancelled",
                raw_status=raw_status,
                error=_REASON,
                finished_at=utc_now(),
            )
        )


def description(store: Store, config: Config, run: str, job: Job) -> FinetuneSpec:
    """The job as it was described when it was to be submitted.

    Raises `Unrecognized` where the run's settings and data do not give it any more.
    """
    dataset = store.dataset(job.dataset_id)
    if dataset is not None:
        described = plan(config, run, dataset, _start(store, config, job))
        for attempt in range(1, _MOST_ATTEMPTS):
            spec = described.spec(store, attempt)
            if spec.name == job.job_id and spec.digest == job.digest:
                return spec
    raise Unrecognized(
        f"the run's settings and data do not give job {job.job_id} any more; look for it in "
        "the provider's own list"
    )


def _start(store: Store, config: Config, job: Job) -> ModelRef:
    bases: Mapping[str, ModelRef] = {
        model.provider: ModelRef(model.model_id, model.provider)
        for model in store.models()
        if model.artifact is None
    }
    agents = next(arm.agents for arm in config.all_arms if arm.name == job.arm)
    untuned = Society.untuned(
        [bases[config.base_address(number)] for number in range(1, agents + 1)],
        bases[config.model],
    )
    if config.finetune.init == "fresh":
        return untuned.model(job.agent, job.role)
    before = society_after(store, untuned, job.iteration - 1, job.arm)
    return before.model(job.agent, job.role)


def _title(job: Job) -> str:
    return f"iteration {job.iteration}, agent {job.agent}, {job.role}"
