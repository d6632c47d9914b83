"""Cancelling the fine-tuning jobs of a run that go on elsewhere although nobody works on the run.

Stopping a run leaves its remote jobs running on purpose: starting it again adopts them. This is for
when they are no longer wanted.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from evals import stored_run
from providers import registry
from providers.base import Provider
from providers.errors import JobError, ProviderError
from providers.types import FinetuneSpec, JobHandle, JobState, ModelRef
from society.config.schema import Config
from society.method.agents import Society
from society.method.arms import build_arms
from society.method.connections import StoredBatches
from society.method.finetuning import build_plan, load_society
from society.runs.folder import RunFolder
from store.errors import StoreError
from store.ledger import Store
from store.records import Job, utc_now

_OPEN = ("intent", "submitted", "running")
_REASON = "cancelled by `society cancel`"
_IN_PROCESS = "trained in the process of the run itself, which has ended"
_MOST_ATTEMPTS = 100

# What was asked of a provider in batches, and how much of that has been stored.
_ANSWERED = """
SELECT count(*) FROM turns JOIN models USING (model_id)
WHERE provider = ? AND split = 'eval' AND shared_turn_id IS NULL
"""

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Waits:
    """How long a server has to end a job it was asked to cancel: looks, and seconds in between.

    A call that fails is tried again for `call_s`. All jobs together are given up after `total_s`,
    or `each_s` for every one where that is more; meanwhile something is told every `told_every_s`.
    """

    looks: int = 5
    pause_s: float = 1.0
    call_s: float = 20.0
    total_s: float = 60.0
    each_s: float = 2.0
    told_every_s: float = 5.0


async def cancel_all(folders: Sequence[RunFolder], tell: Tell) -> int:
    """Cancel the jobs of all these runs together; returns how many could not be dealt with.

    What is told of one run of several stays together. A run that cannot be opened, such as one that
    is being worked on, is among the failures; where it is the only one, the error is raised.
    """
    if len(folders) == 1:
        with Store.open(folders[0].database, create=False) as store:
            return await cancel(folders[0], store, tell)

    async def one(folder: RunFolder) -> int:
        lines: list[str] = []
        try:
            with Store.open(folder.database, create=False) as store:
                failures = await cancel(
                    folder, store, lines.append, hint=lambda line: tell(f"{folder.name}: {line}")
                )
        except StoreError as error:
            failures = 1
            lines.append(f"not looked at: {error}")
        tell("\n".join((f"run {folder.name}:", *lines)))
        return failures

    return sum(await asyncio.gather(*(one(folder) for folder in folders)))


async def cancel(
    folder: RunFolder,
    store: Store,
    tell: Tell,
    waits: Waits | None = None,
    *,
    hint: Tell | None = None,
) -> int:
    """Cancel every job of the run that is under way elsewhere, record it and tell what was done.

    Returns how many could not be dealt with. A job that has succeeded meanwhile stays as it is.
    `hint` is told what is waited for, by default `tell`. Raises `NothingStored` for a database
    without a run, and the store's errors.
    """
    config = Config.from_json(stored_run.load_run(store).config)
    jobs = open_jobs(store)
    by_address: dict[str, list[Job]] = {a: [] for a in config.addresses if store.batches(a)}
    if not jobs and not by_address:
        tell("no fine-tuning job of this run is under way")
        return 0
    for job in jobs:
        by_address.setdefault(address_of(config, job), []).append(job)
    failures, providers = 0, []
    waits = waits or Waits()
    work: dict[asyncio.Task[str], str] = {}
    try:
        for address, found in by_address.items():
            if registry.info(address).in_process:
                for job in found:
                    tell(f"{_title(job)}: {_IN_PROCESS}")
                continue
            try:
                provider = _connected(folder, config, address, waits)
            except ProviderError as error:
                tell(f"{address}: {error}")
                failures += len(found) or 1
                continue
            providers.append(provider)
            work |= _started(provider, folder, config, store, found, waits)
        return failures + await _ended(work, tell, hint or tell, waits)
    finally:
        for provider in providers:
            await provider.close()


def open_jobs(store: Store) -> list[Job]:
    """The jobs that were meant to be submitted and of which no end is known."""
    return [job for job in store.jobs() if job.status in _OPEN]


def going_on(databases: Iterable[Path]) -> list[str]:
    """What of stopped runs is known to be at a provider, in words: jobs and batches."""
    counts = {"fine-tuning job(s)": 0, "batch(es)": 0}
    for database in databases:
        with suppress(StoreError), Store.open(database, read_only=True) as store:
            if (run := store.run()) is not None:
                config = Config.from_json(run.config)
                counts["fine-tuning job(s)"] += len(_created(store, config))
                counts["batch(es)"] += sum(_open_batches(store, a) for a in config.addresses)
    return [f"{count} {what}" for what, count in counts.items() if count]


def running_elsewhere(database: Path) -> int:
    """How many jobs of a stopped run go on at a provider; 0 where the database cannot be read.

    One that was only meant to be created does not: resuming looks for it before creating it.
    """
    try:
        with Store.open(database, read_only=True) as store:
            run = store.run()
            return 0 if run is None else len(_created(store, Config.from_json(run.config)))
    except StoreError:
        return 0


def _created(store: Store, config: Config) -> list[Job]:
    return [
        job
        for job in open_jobs(store)
        if job.provider_job_id is not None and not registry.info(address_of(config, job)).in_process
    ]


def _open_batches(store: Store, address: str) -> int:
    """How many of the newest batches have answers that are not stored."""
    created = [batch for batch in store.batches(address) if batch.batch_id is not None]
    asked = [set(json.loads(batch.custom_ids)) for batch in reversed(created)]
    [(answered,)] = store.rows(_ANSWERED, [address])
    missing, count = len(set().union(*asked)) - answered, 0
    for ids in asked:
        if missing <= 0:
            break
        missing, count = missing - len(ids), count + 1
    return count


def address_of(config: Config, job: Job) -> str:
    """The address of the base model that a job tunes; agent 0 is shared by all."""
    return config.agent_models[job.agent - 1] if job.agent else config.model


def _connected(folder: RunFolder, config: Config, address: str, waits: Waits) -> Provider:
    provider = registry.connect(address, config.settings_of(address), folder.models)
    # Nothing has been sent over the first one, so there is nothing to close.
    return provider.with_deadline(waits.call_s)


def _started(
    provider: Provider,
    folder: RunFolder,
    config: Config,
    store: Store,
    jobs: Sequence[Job],
    waits: Waits,
) -> dict[asyncio.Task[str], str]:
    """One task for each job, and one for all batches, with what it is about."""
    address = provider.base.address
    canceller = _Canceller(provider, store, config, folder.name, waits)
    work: list[tuple[str, Awaitable[str]]] = [(_title(job), canceller.cancel(job)) for job in jobs]
    if provider.capabilities.batches and store.batches(address):
        work.append((address, canceller.cancel_batches()))
    return {asyncio.ensure_future(_told(doing)): what for what, doing in work}


async def _told(doing: Awaitable[str]) -> str:
    try:
        return await doing
    except (ProviderError, Unrecognized) as error:
        raise _NotCancelled(str(error)) from error


async def _ended(
    work: Mapping[asyncio.Task[str], str], tell: Tell, hint: Tell, waits: Waits
) -> int:
    """Tell what becomes of every task, for as long as `waits` allows; returns how many failed."""
    until = time.monotonic() + max(waits.total_s, waits.each_s * len(work))
    pending, failures = set(work), 0
    try:
        while pending and (left := until - time.monotonic()) > 0:
            done, pending = await asyncio.wait(
                pending, timeout=min(left, waits.told_every_s), return_when=asyncio.FIRST_COMPLETED
            )
            for task in (task for task in work if task in done):
                error = task.exception()
                if error is not None and not isinstance(error, _NotCancelled):
                    raise error
                failures += error is not None
                what = task.result() if error is None else f"not cancelled: {error}"
                tell(f"{work[task]}: {what}")
            if pending and not done:
                hint(f"waiting for the server: {len(pending)} of {len(work)} left, {left:.0f} s")
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
    for task in (task for task in work if task in pending):
        tell(f"{work[task]}: not cancelled: the server has not answered; try again later")
    return failures + len(pending)


class _NotCancelled(Exception):
    """Why something goes on."""


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

    async def cancel_batches(self) -> str:
        """What became of all batches."""
        records = StoredBatches(self._store, self._provider.base.address)
        return f"{await self._provider.batches(records).cancel()} batch(es) cancelled"

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
        described = build_plan(config, run, dataset, _start(store, config, job))
        if job.settings is not None:
            described = described.with_settings(job.settings)
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
    agents = next(arm.agents for arm in build_arms(config) if arm.name == job.arm)
    untuned = Society.from_bases(
        [bases[config.base_address(number)] for number in range(1, agents + 1)],
        bases[config.model],
    )
    if config.finetune.init == "fresh":
        return untuned.model(job.agent, job.role)
    before = load_society(store, untuned, job.iteration - 1, job.arm)
    return before.model(job.agent, job.role)


def _title(job: Job) -> str:
    return f"iteration {job.iteration}, agent {job.agent}, {job.role}"
