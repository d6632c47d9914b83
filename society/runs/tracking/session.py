"""What happens to a run's figures while it goes on: each tracker gets them once, in order.

Every tracker has a thread of its own, in which its figures are read and sent. The run itself only
puts events into a queue, so that no tracker can slow it down or stop it.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

from society.config.schema import Config
from society.method.progress import Event, Note, Observer, PartFinished
from society.runs.folder import RunFolder
from society.runs.status import combine_observers
from society.runs.tracking.figures import read_figures
from society.runs.tracking.parameters import list_parameters
from society.runs.tracking.process import TrackerFailed, TrackerProcess
from society.runs.tracking.tracker import TrackerTarget
from store.errors import StoreError
from store.ledger import Store
from store.tracking import TrackedFigure, TrackerRun

# At the end of a run, for what trackers have not got yet; a run that is stopped waits less.
_FINISHING_S = 30.0
_STOPPING_S = 5.0
_SENT = "SELECT figure, step FROM tracked_figures WHERE tracker = ?"
_RUN_ID = "SELECT tracker_run_id FROM tracker_runs WHERE tracker = ?"


class TrackingSession:
    """An observer of one start of a run that logs its figures to `trackers`.

    `note` tells the user something. It is made inside the event loop and closed there.

    ```python
    session = TrackingSession(["tensorboard"], target, store, progress.note)
    session(PartFinished(0, "multiagent", "evaluation"))
    await session.close(finished=True)
    ```
    """

    def __init__(
        self,
        trackers: Sequence[str],
        target: TrackerTarget,
        store: Store,
        note: Callable[[str], None],
    ) -> None:
        loop = asyncio.get_running_loop()

        def tell(text: str) -> None:
            loop.call_soon_threadsafe(note, text)

        self._followers = [_Follower(name, target, store, tell) for name in trackers]
        for follower in self._followers:
            follower.start()

    def __call__(self, event: Event) -> None:
        """Take an event; only finished parts count."""
        if isinstance(event, PartFinished):
            for follower in self._followers:
                follower.events.put(event)

    async def close(self, *, finished: bool) -> None:
        """Let the trackers take what is left, for a while, and end them."""
        begun = time.monotonic()
        # Behind the parts in each queue, so that these are sent first.
        for follower in self._followers:
            follower.events.put(finished)
        try:
            for follower in self._followers:
                limit_s = _FINISHING_S if finished and not follower.failed else _STOPPING_S
                left_s = begun + limit_s - time.monotonic()
                await asyncio.to_thread(follower.join, max(0.0, left_s))
        finally:
            # Cancelled or out of time: no thread may use the store after this.
            for follower in self._followers:
                if follower.is_alive():
                    follower.abandon()
        # Lets what the threads have told through before the run's progress display ends.
        await asyncio.sleep(0)


class _Follower(threading.Thread):
    """One tracker's thread. Its queue holds finished parts, and at the end whether all is done."""

    def __init__(
        self, name: str, target: TrackerTarget, store: Store, tell: Callable[[str], None]
    ) -> None:
        super().__init__(name=f"tracker {name}", daemon=True)
        self.events: queue.SimpleQueue[PartFinished | bool] = queue.SimpleQueue()
        self.failed = False
        self._tracker = name
        self._target = target
        self._store = store
        self._tell = tell
        self._process: TrackerProcess | None = None
        self._waiting: list[PartFinished] = []
        self._abandoned = False

    def run(self) -> None:
        # A run that has ended is opened at the tracker only if it has something new.
        stored = self._store.run()
        if stored is None or stored.finished_at is None:
            self._attempt(self._open)
        while not isinstance(event := self.events.get(), bool):
            self._waiting.append(event)
            self._attempt(self._send)
        self._attempt(self._send)
        if self._process is not None:
            self._attempt(partial(self._process.close, finished=event))

    def abandon(self) -> None:
        """End the tracker in the middle of what it does, and wait for the thread."""
        self._abandoned = True
        if self._process is not None:
            self._process.kill()
        self.join(_STOPPING_S)
        self._tell_once("it had not taken everything when the run ended")

    def _attempt(self, act: Callable[[], object]) -> None:
        """Do something with the tracker; if it fails, the next attempt begins anew."""
        if self._abandoned:
            return
        try:
            act()
        # Whatever it is, a fault of ours too, must not end the run.
        except Exception as error:
            known = isinstance(error, TrackerFailed | StoreError)
            if not self._abandoned:
                self._tell_once(str(error) if known else f"{type(error).__name__}: {error}")
            if self._process is not None:
                self._process.end()
                self._process = None

    def _open(self) -> TrackerProcess:
        if self._process is not None:
            return self._process
        self._process = TrackerProcess(self._tracker)
        known = [str(run_id) for (run_id,) in self._store.rows(_RUN_ID, [self._tracker])]
        target = replace(
            self._target, tracker_run_id=known[0] if known else None, sent=len(self._read_sent())
        )
        run_id = self._process.open(target)
        if not known:
            self._store.write(TrackerRun(self._tracker, run_id))
        return self._process

    def _send(self) -> None:
        while self._waiting:
            sent = self._read_sent()
            figures = [
                figure
                for figure in read_figures(self._store, self._waiting[0])
                if (figure.name, figure.step) not in sent
            ]
            if figures:
                self._open().log(figures)
                # What is sent and, because of a kill at this moment, not recorded is sent again.
                self._store.write(
                    *(TrackedFigure(self._tracker, f.name, f.step, f.value) for f in figures)
                )
            # Only now: what fails on the way is tried again from here.
            del self._waiting[0]

    def _read_sent(self) -> set[tuple[str, int]]:
        return {(str(name), int(step)) for name, step in self._store.rows(_SENT, [self._tracker])}

    def _tell_once(self, reason: str) -> None:
        if not self.failed:
            self.failed = True
            self._tell(
                f"tracking: {self._tracker} failed: {reason}. The run goes on; {self._tracker} is "
                "tried again with the next figures, and gets what is missing when this run is "
                "started again"
            )


@asynccontextmanager
async def track_run(
    config: Config, folder: RunFolder, store: Store, observer: Observer
) -> AsyncIterator[Observer]:
    """The observer of a run, which also logs its figures if the experiment names trackers."""
    if not config.tracking:
        yield observer
        return
    target = TrackerTarget(
        folder.name,
        config.tracking_project,
        str(folder.path.resolve()),
        list_parameters(config),
    )
    session = TrackingSession(config.tracking, target, store, lambda text: observer(Note(text)))
    finished = False
    try:
        yield combine_observers(observer, session)
        finished = True
    finally:
        await session.close(finished=finished)
