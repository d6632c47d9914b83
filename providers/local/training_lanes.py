"""Jobs side by side: the first lane is the device's own thread, each other one is a worker.

A lane takes several jobs at a time where they can share their passes over the base.

The first lane is there anyway, with the base loaded, so that one job alone costs no process and no
second copy of the base. Workers are started once jobs wait, load the base once, and end when no job
is left, which gives their memory back to whoever answers next.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from itertools import chain

import torch

from providers.errors import ModelNotFound, ProviderError, RunError
from providers.local.engine import Engine
from providers.local.joint_plan import JointLimits
from providers.local.joint_training import carry_out
from providers.local.lane_plan import IdleCores, LanePlan, estimate_start, is_worth_starting
from providers.local.machine import find_free_ram, guess_dtype_bytes
from providers.local.memory import ModelSize, make_plan, measure_model, write_size
from providers.local.models import LocalModels
from providers.local.source import find_folder, read_config
from providers.local.training_run import TrainingRun, estimate_seconds
from providers.local.training_worker import (
    NoPlace,
    TrainingWorker,
    WorkerFailed,
    WorkerLink,
    WorkerRefused,
    WorkerSetup,
)
from providers.local.worker_process import WorkerProcess

_HERE = 0
# How often one job is begun before its worker's end is taken for its own fault.
_TRIES = 3
# How long a worker waits for the next job: jobs of one iteration are submitted together.
_IDLE_S = 3.0
# A part of the free memory stays free for what nobody has foreseen.
_USABLE = 0.9


class TrainingLanes:
    """Carries out jobs, as many at a time as `plan` allows. `open_link` starts a worker.

    ```python
    lanes = TrainingLanes(engine, models, plan, WorkerSetup(source, settings, workdir))
    lanes.submit(run)
    lanes.close()
    ```
    """

    def __init__(
        self,
        engine: Engine,
        models: LocalModels,
        plan: LanePlan,
        setup: WorkerSetup,
        open_link: Callable[[WorkerSetup], WorkerLink] = WorkerProcess,
    ) -> None:
        self._engine, self._models = engine, models
        self._plan, self._setup, self._open_link = plan, setup, open_link
        self._changed = threading.Condition()
        self._waiting: deque[TrainingRun] = deque()
        self._running: dict[int, list[TrainingRun]] = {}
        self._joint = JointLimits(setup.settings, on_cpu=plan.cards[_HERE] is None)
        self._workers: dict[int, threading.Thread] = {}
        self._barred: set[int] = set()
        self._idle_cores = IdleCores()
        self._size: ModelSize | None = None
        self._closing = False

    def submit(self, run: TrainingRun) -> None:
        """Queue a job. It begins in this process, or in a worker that is free sooner."""
        with self._changed:
            self._waiting.append(run)
            self._changed.notify_all()
        if self._plan.trains_here:
            self._engine.run(self._train_here)
        self.review()

    def renew(self, plan: LanePlan) -> None:
        """Go by another plan from now on, and try again where no worker could be started."""
        with self._changed:
            if plan.cards[_HERE] != self._plan.cards[_HERE]:
                self._joint = JointLimits(self._setup.settings, on_cpu=plan.cards[_HERE] is None)
            self._plan = plan
            self._barred.clear()

    def review(self) -> None:
        """Start the workers that pay now; to be called when a job has come or has moved on."""
        with self._changed:
            if self._closing or self._plan.lanes == 1:
                return
            here = int(self._plan.trains_here)
            most = min(self._plan.workers + here, self._count_unfinished())
            missing = most - here - len(self._workers)
            free = [lane for lane in range(1, self._plan.lanes) if self._may_open(lane)]
            if self._plan.is_automatic and missing > 0 and free:
                # One after the other: the next one sees what this one has made of the machine.
                missing = int(self._may_start_one())
            for lane in free[: max(0, missing)]:
                thread = threading.Thread(
                    target=self._run_lane, args=(lane,), name=f"training-{lane}", daemon=True
                )
                self._workers[lane] = thread
                thread.start()

    def close(self) -> None:
        """Wait until the jobs have ended, each stopped by its `stop`; waiting ones never begin."""
        with self._changed:
            self._closing = True
            workers = list(self._workers.values())
            self._changed.notify_all()
        for worker in workers:
            worker.join()

    def _may_open(self, lane: int) -> bool:
        return lane not in self._workers and lane not in self._barred

    def _may_start_one(self) -> bool:
        try:
            return self._pays()
        # Whatever is wrong with the files, the job that runs has the model in memory.
        except ProviderError as error:
            self._bar(range(1, self._plan.lanes), str(error))
            return False

    def _pays(self) -> bool:
        """Whether one more worker saves time now, has idle cores, and fits into memory."""
        groups = list(self._running.values())
        pace = next((p for group in groups for run in group if (p := run.step_seconds)), None)
        if pace is None:
            return False
        size = self._measure_base()
        weights = size.count_weight_bytes(guess_dtype_bytes(self._setup.settings), None)
        start_s = estimate_start(weights)
        # Jobs that share their passes end about when the longest of them does, and so will those
        # that wait, which a lane takes as many of at a time.
        free_in = [_estimate_longest(group, pace) for group in groups]
        # A worker that is being started takes the next job once it is ready.
        free_in += [start_s] * (1 + len(self._workers) - len(free_in))
        waiting, most = list(self._waiting), max(map(len, groups))
        chunks = [waiting[n : n + most] for n in range(0, len(waiting), most)]
        lengths = [_estimate_longest(chunk, pace) for chunk in chunks]
        if not is_worth_starting(free_in, lengths, start_s):
            return False
        if self._plan.cards[_HERE] is not None:
            # The worker itself looks whether its card has room.
            return True
        idle = self._idle_cores.count()
        if idle is None or idle < 0.75 * (self._plan.threads or 1):
            return False
        return self._has_room()

    def _has_room(self) -> bool:
        needed, free = self._count_needed(), find_free_ram()
        if needed <= _USABLE * free:
            return True
        self._bar(
            range(1, self._plan.lanes),
            f"{write_size(free)} of memory are free, and about {write_size(needed)} are needed",
        )
        return False

    def _count_needed(self) -> int:
        """Bytes that a worker takes for the jobs that wait."""
        settings, dtype_bytes = self._setup.settings, guess_dtype_bytes(self._setup.settings)
        size = self._measure_base()

        def count(run: TrainingRun) -> int:
            how = run.spec.hyperparameters
            beside = self._count_places(run) - 1
            alone = size.estimate_worker(make_plan(settings, dtype_bytes, how))
            return alone + beside * size.estimate_training(how)

        return max(map(count, self._waiting))

    def _measure_base(self) -> ModelSize:
        if self._size is None:
            source = self._setup.source
            folder = find_folder(source)
            if folder is None:
                raise ModelNotFound(f"the model {source.name!r} is not on this disk")
            self._size = measure_model(folder, source.gguf_file, read_config(source))
        return self._size

    def _bar(self, lanes: Iterable[int], reason: str) -> None:
        """Start no worker there again, and tell with a job why."""
        self._barred.update(lanes)
        for run in (*chain(*self._running.values()), *self._waiting):
            run.add_note(f"warning: fewer jobs are trained at the same time: {reason}")
            return

    def _count_unfinished(self) -> int:
        running = sum(not run.done for run in chain(*self._running.values()))
        return running + sum(not run.stop.is_set() for run in self._waiting)

    def _take(self, lane: int) -> list[TrainingRun]:
        """The next job for this lane, with those that may share its passes."""
        for run in list(self._waiting):
            # What has ended a worker must not end the run, as long as another worker may try it.
            if lane == _HERE and run.deaths and self._workers:
                continue
            self._waiting.remove(run)
            if run.stop.is_set():
                run.end("cancelled")
                continue
            self._running[lane] = [run]
            return [run, *self._take_more(lane)]
        return []

    def _take_more(self, lane: int) -> list[TrainingRun]:
        """The waiting jobs that join those of a lane now."""
        joined: list[TrainingRun] = []
        with self._changed:
            here = [run for run in self._running[lane] if not run.done]
            if self._closing or not all(self._may_share(run) for run in here):
                return []
            for run in filter(self._may_share, list(self._waiting)):
                if len(here) + len(joined) >= self._count_places(run):
                    break
                self._waiting.remove(run)
                joined.append(run)
            self._running[lane] = here + joined
        return joined

    def _may_share(self, run: TrainingRun) -> bool:
        # Of jobs that a worker has died with, one at a time shows which one it dies of.
        return not (run.deaths or run.is_alone) and self._joint.may_share(run.spec)

    def _count_places(self, run: TrainingRun) -> int:
        """How many jobs a lane has at a time, so that the other lanes have as many."""
        free = sum(self._may_open(lane) for lane in range(1, self._plan.lanes))
        lanes = int(self._plan.trains_here) + len(self._workers) + free
        share = math.ceil(self._count_unfinished() / max(1, lanes))
        return min(share, self._joint.count_adapters(run.spec, self._measure_base))

    def _train_here(self) -> None:
        """In the device's thread, once for each job; a worker may have taken it meanwhile."""
        with self._changed:
            runs = [] if self._closing else self._take(_HERE)
        if not runs:
            return
        try:
            with _use_threads(self._plan.threads):
                carry_out(self._models, runs, lambda: self._take_more(_HERE))
        finally:
            with self._changed:
                del self._running[_HERE]

    def _run_lane(self, lane: int) -> None:
        """Workers of a lane, in a thread of its own: a second one only if the first broke off."""
        failures = 0
        try:
            while self._run_worker(lane, failures):
                failures += 1
        except (WorkerFailed, ProviderError) as failure:
            with self._changed:
                self._bar([lane], str(failure))
                if len(self._workers) == 1 and not self._plan.trains_here:
                    self._fail_waiting(str(failure))
        finally:
            with self._changed:
                del self._workers[lane]
                left = 0 if self._closing else len(self._waiting)
        # A job may have come, or come back, while this lane ended.
        self.review()
        if not self._plan.trains_here:
            return
        with suppress(RunError):
            for _ in range(left):
                self._engine.run(self._train_here)

    def _fail_waiting(self, reason: str) -> None:
        """Let the jobs fail for which there is no worker any more."""
        while self._waiting:
            run = self._waiting.popleft()
            run.end("cancelled") if run.stop.is_set() else run.fail(reason)

    def _run_worker(self, lane: int, failures: int) -> bool:
        """One worker's life; True if another is to be tried: it broke off with jobs, which wait
        again or have failed, or no node of a cluster was good for it yet."""
        with closing(TrainingWorker(self._open_link(self._describe_worker(lane)))) as worker:
            try:
                if not worker.wait_until_ready(lambda: bool(self._waiting) and not self._closing):
                    return False
            except NoPlace:
                if self._running:
                    return True
                raise
            # What a node has refused, it would refuse again.
            except WorkerRefused:
                raise
            except WorkerFailed:
                # A node of a cluster that is lost meanwhile says nothing about the others.
                if self._plan.trains_here or failures >= _TRIES:
                    raise
                return True
            while runs := self._wait_for_runs(lane):
                try:
                    worker.train(runs)
                except WorkerFailed as failure:
                    for run in reversed(runs):
                        self._take_back(run, failure)
                    return True
                except Exception as error:
                    # Not the worker's: a job itself could not be read.
                    for run in runs:
                        if not run.done:
                            reason = f"{type(error).__name__}: {error}"
                            run.fail(reason, fatal=isinstance(error, OSError))
                    raise
                finally:
                    with self._changed:
                        del self._running[lane]
        return False

    def _describe_worker(self, lane: int) -> WorkerSetup:
        card, needed = self._plan.cards[lane], None
        with self._changed:
            counts = self._plan.is_automatic or not self._plan.trains_here
            if card is not None and counts and self._waiting:
                needed = self._count_needed()
        return replace(self._setup, threads=self._plan.threads, card=card, needed_bytes=needed)

    def _wait_for_runs(self, lane: int) -> list[TrainingRun]:
        """The next jobs, none if none comes for a while."""
        until = time.monotonic() + _IDLE_S
        with self._changed:
            while not self._closing:
                if runs := self._take(lane):
                    return runs
                if (left := until - time.monotonic()) <= 0:
                    break
                self._changed.wait(left)
        return []

    def _take_back(self, run: TrainingRun, failure: WorkerFailed) -> None:
        """Let a job of a worker that broke off wait again, a limited number of times."""
        if run.done:
            return
        run.deaths += 1
        if run.stop.is_set():
            run.end("cancelled")
        elif run.deaths < _TRIES:
            run.add_note(f"warning: a training worker broke off: {failure}; its job is repeated")
            with self._changed:
                run.requeue()
                self._waiting.appendleft(run)
        else:
            run.fail(
                f"{run.deaths} workers broke off in this job, the last one after step "
                f"{len(run.points)} of {run.steps}: {failure}; if the system ended them for lack "
                "of memory (see its log, dmesg), free some or set [provider] training_workers = 1"
            )


def _estimate_longest(runs: Iterable[TrainingRun], pace: float) -> float:
    """Seconds until all of some jobs are done that share their passes, if a step takes `pace`."""
    return max((estimate_seconds(run, run.step_seconds or pace) for run in runs), default=0.0)


@contextmanager
def _use_threads(threads: int | None) -> Iterator[None]:
    """Let torch use so many CPU threads in this thread, and afterwards as many as before."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
