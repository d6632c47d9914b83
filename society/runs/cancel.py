"""Cancelling the remote fine-tuning jobs and batches of a stopped run, and its deployments.

Stopping a run leaves its remote jobs running on purpose: resuming the run adopts them. Cancel them
when the run is no longer wanted. A deleted deployment is made again when its model is asked.
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
from providers.gathering import gather_or_cancel
from providers.types import FinetuneSpec, JobHandle, JobState, ModelRef
from society.config.schema import Config
from society.method.agents import Society
from society.method.arms import build_arms
from society.method.connections import StoredBatches
from society.method.finetuning import build_plan, load_society
from society.runs import deployments
from society.runs.folder import RunFolder
from store.errors import StoreError
from store.ledger import Store
from store.records import Job, utc_now

_OPEN = ("intent", "submitted", "running")
_REASON = "cancelled by `society cancel`"
_IN_PROCESS = "trained in the process of the run, which has ended"
_MOST_ATTEMPTS = 100

# How many answers of a provider's batches are stored; a shared turn was not asked itself.
_ANSWERED = """
SELECT count(*) FROM turns JOIN models USING (model_id)
WHERE provider = ? AND split = 'eval' AND shared_turn_id IS NULL
"""

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class CancelLimits:
    """How long a server has to end a cancelled job: number of polls, and seconds between them.

    A failed call is retried for `call_s`. All jobs together are given up after `total_s`, or after
    `each_s` for each job if that is longer; a message follows every `report_every_s`.
    """

    polls: int = 5
    pause_s: float = 1.0
    call_s: float = 20.0
    total_s: float = 60.0
    each_s: float = 2.0
    report_every_s: float = 5.0


async def cancel_all(folders: Sequence[RunFolder], tell: Tell) -> int:
    """Cancel the jobs of all these runs at the same time; return how many could not be cancelled.

    The messages of one run stay together. A run that cannot be opened, such as a running one,
    counts as a failure; if it is the only run, its error is raised.

        asyncio.run(cancel_all(find_runs(Path("runs"), "demo"), print))
    """
    # A single run reports its own error and exit status; of several, each prints its own block.
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
            lines.append(f"skipped: {error}")
        tell("\n".join((f"run {folder.name}:", *lines)))
        return failures

    return sum(await gather_or_cancel([one(folder) for folder in folders]))


async def cancel(
    folder: RunFolder,
    store: Store,
    tell: Tell,
    limits: CancelLimits | None = None,
    *,
    hint: Tell | None = None,
) -> int:
    """Cancel every remote job of the run, delete its deployments, and tell what became of each.

    Returns how many could not be cancelled. A job that has succeeded meanwhile stays as it is.
    `hint` gets messages about waiting; by default that is `tell`. Raises `NothingStored` for a
    database without a run, and the store's errors.
    """
    config = Config.from_json(stored_run.load_run(store).config)
    jobs = list_open_jobs(store)
    # One connection per provider serves all of its jobs and batches.
    by_address: dict[str, list[Job]] = {a: [] for a in config.addresses if store.batches(a)}
    for address in deployments.list_addresses(config, store):
        by_address.setdefault(address, [])
    if not jobs and not by_address:
        tell("no fine-tuning job of this run is under way")
        return 0
    for job in jobs:
        by_address.setdefault(find_address(config, job), []).append(job)
    failures, providers = 0, []
    limits = limits or CancelLimits()
    work: dict[asyncio.Task[str], str] = {}
    try:
        for address, found in by_address.items():
            if registry.info(address).in_process:
                for job in found:
                    tell(f"{_name_job(job)}: {_IN_PROCESS}")
                continue
            try:
                provider = _connect(folder, config, address, limits)
            except ProviderError as error:
                tell(f"{address}: {error}")
                failures += len(found) or 1
                continue
            providers.append(provider)
            work |= _start_tasks(provider, folder, config, store, found, limits)
        if not work and not failures and not jobs:
            tell("no fine-tuning job of this run is under way")
        return failures + await _await_tasks(work, tell, hint or tell, limits)
    finally:
        for provider in providers:
            await provider.close()


def list_open_jobs(store: Store) -> list[Job]:
    """The jobs that were submitted, or were about to be, and whose end is unknown."""
    return [job for job in store.jobs() if job.status in _OPEN]


def list_remote_work(databases: Iterable[Path]) -> list[str]:
    """What stopped runs have left at providers, in words: counts of jobs and of batches.

    A job of which only the intent is stored does not count: resuming looks for it first. A
    database that cannot be read counts nothing.
    """
    counts = {"fine-tuning job(s)": 0, "batch(es)": 0}
    for database in databases:
        with suppress(StoreError), Store.open(database, read_only=True) as store:
            if (run := store.run()) is not None:
                config = Config.from_json(run.config)
                counts["fine-tuning job(s)"] += len(_list_created(store, config))
                counts["batch(es)"] += sum(_count_open_batches(store, a) for a in config.addresses)
    return [f"{count} {what}" for what, count in counts.items() if count]


def _list_created(store: Store, config: Config) -> list[Job]:
    return [
        job
        for job in list_open_jobs(store)
        if job.provider_job_id is not None
        and not registry.info(find_address(config, job)).in_process
    ]


def _count_open_batches(store: Store, address: str) -> int:
    """How many of the newest batches have answers that are not stored."""
    created = [batch for batch in store.batches(address) if batch.batch_id is not None]
    asked = [set(json.loads(batch.custom_ids)) for batch in reversed(created)]
    [(answered,)] = store.rows(_ANSWERED, [address])
    # Batches are answered in the order they were made, so unanswered questions are in the newest.
    missing, count = len(set().union(*asked)) - answered, 0
    for ids in asked:
        if missing <= 0:
            break
        missing, count = missing - len(ids), count + 1
    return count


def find_address(config: Config, job: Job) -> str:
    """The address of the base model that a job tunes; agent 0 stands for a shared model."""
    return config.agent_models[job.agent - 1] if job.agent else config.model


def _connect(folder: RunFolder, config: Config, address: str, limits: CancelLimits) -> Provider:
    provider = registry.connect(address, config.settings_of(address), folder.models)
    # The first provider has sent nothing, so there is nothing to close.
    return provider.with_deadline(limits.call_s)


def _start_tasks(
    provider: Provider,
    folder: RunFolder,
    config: Config,
    store: Store,
    jobs: Sequence[Job],
    limits: CancelLimits,
) -> dict[asyncio.Task[str], str]:
    """A task for each job, one for all batches and one for all deployments, with the names that
    messages give them."""
    address = provider.base.address
    canceller = _Canceller(provider, store, config, folder.name, limits)
    work: list[tuple[str, Awaitable[str]]] = [
        (_name_job(job), canceller.cancel(job)) for job in jobs
    ]
    if provider.capabilities.batches and store.batches(address):
        work.append((address, canceller.cancel_batches()))
    if provider.capabilities.deployments:
        work.append((address, deployments.delete_deployments(provider, store)))
    return {asyncio.ensure_future(_wrap_errors(doing)): what for what, doing in work}


async def _wrap_errors(doing: Awaitable[str]) -> str:
    try:
        return await doing
    except (ProviderError, UnknownJob) as error:
        raise _CancelFailed(str(error)) from error


async def _await_tasks(
    work: Mapping[asyncio.Task[str], str], tell: Tell, hint: Tell, limits: CancelLimits
) -> int:
    """Tell the outcome of every task, as long as `limits` allow; return how many failed."""
    until = time.monotonic() + max(limits.total_s, limits.each_s * len(work))
    pending, failures = set(work), 0
    try:
        while pending and (left := until - time.monotonic()) > 0:
            done, pending = await asyncio.wait(
                pending,
                timeout=min(left, limits.report_every_s),
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in (task for task in work if task in done):
                # A job that cannot be cancelled is reported; any other error ends the command.
                error = task.exception()
                if error is not None and not isinstance(error, _CancelFailed):
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


class _CancelFailed(Exception):
    """Why a job or batch could not be cancelled."""


class UnknownJob(Exception):
    """A job whose specification cannot be rebuilt, so that no provider can look for it."""


class _Canceller:
    def __init__(
        self, provider: Provider, store: Store, config: Config, run: str, limits: CancelLimits
    ) -> None:
        self._provider = provider
        self._store = store
        self._config = config
        self._run = run
        self._limits = limits

    async def cancel_batches(self) -> str:
        """Cancel all batches; return what became of them."""
        records = StoredBatches(self._store, self._provider.base.address)
        return f"{await self._provider.batches(records).cancel()} batch(es) cancelled"

    async def cancel(self, job: Job) -> str:
        """Cancel one job; return what became of it."""
        handle = await self._handle(job)
        # The process ended between storing the intent and submitting: there is nothing to cancel.
        if handle is None:
            await self._record(job, "never created")
            return "was never created"
        job = replace(job, provider_job_id=handle.job_id)
        try:
            state = await self._provider.poll(handle)
        except JobError as error:
            await self._record(job, "unknown")
            return f"no longer exists at the provider ({error})"
        if not state.done:
            await self._provider.cancel(handle)
            state = await self._await_end(handle)
        # The job may have ended between the poll and the cancellation; its outcome then counts.
        if state.status == "succeeded":
            return f"{handle.job_id} had succeeded before; resuming the run adopts its model"
        if state.status == "failed":
            job = replace(job, status="failed", error=state.error, finished_at=utc_now())
            await self._store.append(replace(job, raw_status=state.raw_status))
            return f"{handle.job_id} had failed before: {state.error or state.raw_status}"
        await self._record(replace(job, trained_tokens=state.trained_tokens), state.raw_status)
        return f"{handle.job_id} is cancelled ({state.raw_status})"

    async def _handle(self, job: Job) -> JobHandle | None:
        if job.provider_job_id is not None:
            return JobHandle(job.provider_job_id, job.job_id, job.digest)
        return await self._provider.find(rebuild_spec(self._store, self._config, self._run, job))

    async def _await_end(self, handle: JobHandle) -> JobState:
        """The state when the server has ended the job, or the last state it reported."""
        for poll in itertools.count(1):
            state = await self._provider.poll(handle)
            if state.done or poll >= self._limits.polls:
                return state
            await asyncio.sleep(self._limits.pause_s)
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


def rebuild_spec(store: Store, config: Config, run: str, job: Job) -> FinetuneSpec:
    """The specification that a job was submitted with.

    Raises `UnknownJob` if the run's settings and data no longer give it.
    """
    dataset = store.dataset(job.dataset_id)
    if dataset is not None:
        described = build_plan(config, run, dataset, _find_start(store, config, job))
        # The settings may have changed since; the job was made with its own.
        if job.settings is not None:
            described = described.with_settings(job.settings)
        else:
            # Jobs of early versions, without stored settings, all had the run's own seed.
            described = replace(described, seed=config.seed)
        # The attempt is part of a job's name and is not stored: try them in order.
        for attempt in range(1, _MOST_ATTEMPTS):
            spec = described.spec(store, attempt)
            if spec.name == job.job_id and spec.digest == job.digest:
                return spec
    raise UnknownJob(
        f"the run's settings and data no longer give job {job.job_id}; look for it in the "
        "provider's own list"
    )


def _find_start(store: Store, config: Config, job: Job) -> ModelRef:
    bases: Mapping[str, ModelRef] = {
        model.provider: ModelRef(model.model_id, model.provider)
        for model in store.models()
        if model.artifact is None
    }
    # The experiment does not list distilled models, which start as agent 1 does.
    agents = next((arm.agents for arm in build_arms(config) if arm.name == job.arm), 1)
    untuned = Society.from_bases(
        [bases[config.base_address(number)] for number in range(1, agents + 1)],
        bases[config.model],
    )
    if config.for_arm(job.arm).finetune.init == "fresh":
        return untuned.model(job.agent, job.role)
    before = load_society(store, untuned, job.iteration - 1, job.arm)
    return before.model(job.agent, job.role)


def _name_job(job: Job) -> str:
    return f"iteration {job.iteration}, agent {job.agent}, {job.role}"
