"""Trainings as jobs: side by side in this process, found again by their journals."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from providers.errors import JobError, RequestError, StorageFailed
from providers.tinker.fit import RemoteFit, TrainingStopped, Workplace
from providers.tinker.journal import Journal, open_journal, read_journal
from providers.types import FinetuneSpec, JobHandle, JobState, JobStatus, ModelRef

_STOP_S = 60.0


class TinkerJobs:
    """The jobs of one provider; a job's name is its id. The methods mean what they mean in
    `providers.base.Provider`.

    A job whose process was killed continues as soon as `find` is asked for it. A failure that
    says nothing about the training, such as a server that is gone, is raised by `poll`, and the job
    stays where it is.
    """

    def __init__(
        self,
        open_place: Callable[[], Awaitable[Workplace]],
        workdir: Path,
        address: str,
        most: int,
    ) -> None:
        self._open_place = open_place
        self._workdir = workdir
        self._address = address
        self._gate = asyncio.Semaphore(most)
        self._jobs: dict[str, _RunningJob] = {}

    async def submit(self, spec: FinetuneSpec) -> JobHandle:
        """Begin a job, or adopt the same job if it is running, done, or was begun before."""
        if await self.find(spec) is None:
            # On record before anything is sent.
            journal = open_journal(self._workdir / spec.name, spec.digest)
            await asyncio.to_thread(journal.submit)
            self._begin(spec)
        return _make_handle(spec)

    async def find(self, spec: FinetuneSpec) -> JobHandle | None:
        """The job that was begun for this very spec; one that has broken off continues."""
        job = self._jobs.get(spec.name)
        if job is not None and job.spec.digest == spec.digest and job.is_useful:
            return _make_handle(spec)
        journal = read_journal(self._workdir / spec.name, spec.digest)
        if journal is None or journal.cancelled:
            return None
        if journal.artifact is None:
            self._begin(spec)
        return _make_handle(spec)

    async def poll(self, handle: JobHandle) -> JobState:
        """The job's state; raises what has broken it off without an end."""
        job = self._jobs.get(handle.job_id)
        if job is not None and job.spec.digest == handle.digest:
            return job.describe(self._address)
        journal = read_journal(self._workdir / handle.job_id, handle.digest)
        if journal is not None and journal.artifact is not None:
            return _describe_success(journal, handle, self._address, ())
        return JobState(
            "cancelled" if journal is not None and journal.cancelled else "failed",
            "lost" if journal is None else "interrupted",
            error=f"no job {handle.job_id!r} runs in this process; submit it again",
        )

    async def cancel(self, handle: JobHandle) -> None:
        """End a job; does nothing if it has ended."""
        job = self._jobs.get(handle.job_id)
        if job is not None and not job.task.done():
            await job.end()
            # Without a fit the job has waited for its turn or for the server.
            spec = job.spec
            journal = open_journal(self._workdir / spec.name, spec.digest)
            (journal if job.fit is None else job.fit.journal).cancel()

    async def close(self) -> None:
        """Let all jobs end after their current step, at a saved state."""
        running = [job for job in self._jobs.values() if not job.task.done()]
        for job in running:
            job.stop()
        if running:
            await asyncio.wait([job.task for job in running], timeout=_STOP_S)
        for job in running:
            await job.end()

    def _begin(self, spec: FinetuneSpec) -> None:
        self._jobs[spec.name] = _RunningJob(spec, self._open_place, self._gate)


class _RunningJob:
    """One job of this process."""

    def __init__(
        self,
        spec: FinetuneSpec,
        open_place: Callable[[], Awaitable[Workplace]],
        gate: asyncio.Semaphore,
    ) -> None:
        self.spec = spec
        self.fit: RemoteFit | None = None
        self._error: Exception | None = None
        self._stopping = False
        self.task = asyncio.create_task(self._run(open_place, gate))

    @property
    def is_useful(self) -> bool:
        """Whether the job is waiting, running or done."""
        return not self.task.done() or self._artifact is not None

    @property
    def _artifact(self) -> str | None:
        return None if self.fit is None else self.fit.journal.artifact

    def stop(self) -> None:
        """End the job after its current step."""
        self._stopping = True
        if self.fit is not None:
            self.fit.stopping = True
        else:
            self.task.cancel()

    async def end(self) -> None:
        """End the job now."""
        self.task.cancel()
        await asyncio.wait([self.task])

    def describe(self, address: str) -> JobState:
        """The state now; raises an error that is no end of the job."""
        journal = None if self.fit is None else self.fit.journal
        notes = () if self.fit is None else tuple(self.fit.notes)
        if not self.task.done():
            steps = 0 if self.fit is None else self.fit.steps
            return _describe(journal, "running" if steps else "queued", steps, notes)
        if self._error is not None:
            return self._describe_failure(journal, notes)
        if journal is None or self._artifact is None:
            return _describe(journal, "cancelled", 0, notes)
        return _describe_success(journal, _make_handle(self.spec), address, notes)

    def _describe_failure(self, journal: Journal | None, notes: tuple[str, ...]) -> JobState:
        error = self._error
        assert error is not None
        if not isinstance(error, JobError | RequestError):
            raise error
        points = () if journal is None else tuple(journal.points)
        return JobState(
            "failed",
            "failed",
            points=points,
            error=str(error),
            trained_tokens=0 if journal is None else journal.trained_tokens,
            note="; ".join(notes) or None,
            fatal=isinstance(error, StorageFailed),
        )

    async def _run(
        self, open_place: Callable[[], Awaitable[Workplace]], gate: asyncio.Semaphore
    ) -> None:
        try:
            async with gate:
                place = await open_place()
                self.fit = RemoteFit(place, self.spec)
                self.fit.stopping = self._stopping
                await self.fit.run()
        except (TrainingStopped, asyncio.CancelledError):
            return
        except Exception as error:
            self._error = error
            # It would fail again; what only a server or a disk is to blame for would not.
            final = isinstance(error, JobError | RequestError)
            if final and not isinstance(error, StorageFailed) and self.fit is not None:
                self.fit.journal.remove()


def _describe(
    journal: Journal | None, status: JobStatus, steps: int, notes: tuple[str, ...]
) -> JobState:
    points = () if journal is None else tuple(journal.points)
    return JobState(
        status=status,
        raw_status=status,
        progress=len(points) / steps if steps else 0.0,
        points=points,
        trained_tokens=0 if journal is None else journal.trained_tokens,
        note="; ".join(notes) or None,
    )


def _describe_success(
    journal: Journal, handle: JobHandle, address: str, notes: tuple[str, ...]
) -> JobState:
    return JobState(
        status="succeeded",
        raw_status="succeeded",
        progress=1.0,
        model=ModelRef(handle.name, address, journal.artifact, journal.sha256),
        artifact_sha256=journal.sha256,
        points=tuple(journal.points),
        trained_tokens=journal.trained_tokens,
        checkpoints=tuple(journal.measured),
        left_out=journal.left_out,
        note="; ".join(notes) or None,
    )


def _make_handle(spec: FinetuneSpec) -> JobHandle:
    return JobHandle(job_id=spec.name, name=spec.name, digest=spec.digest)
