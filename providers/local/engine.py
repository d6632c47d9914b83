"""The one thread that owns the device: it does the waiting work in batches.

The oldest waiting work decides what happens next. If it is a request that can join the running
batch, it joins, together with requests like it. Otherwise the running batch ends first. So nothing
starves: a training job starts once the requests before it are answered, and those after it wait.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from providers.errors import OutOfMemory, RunError
from providers.local import hardware
from providers.local.models import LocalModels
from providers.local.reference import make_decoder
from providers.local.rows import Decoder, DecodingRow
from providers.local.scoring import (
    DivergenceQuery,
    encode_passage,
    measure_divergences,
    score_passages,
)
from providers.local.settings import LocalSettings
from providers.local.work import (
    CompletionWork,
    DeviceTask,
    DivergenceWork,
    Route,
    ScoringWork,
    Work,
    deliver_errors,
    encode_request,
    set_error,
    set_result,
)
from providers.types import Completion, Divergence, Message, Request, Score

T = TypeVar("T")
M = TypeVar("M", ScoringWork, DivergenceWork)

_DEFAULT_ROWS = 256
# An idle engine waits so long after each arrival for more, so that calls made together share a
# batch.
_GATHERING_S = 0.005
# Up to this many rows, prompts of any length share a batch: padding costs less than a second pass.
_SMALL_BATCH = 32


@dataclass(frozen=True, eq=False, slots=True)
class _Arrival:
    """Work whose text is not yet tokens; the device's thread calls `encode`."""

    future: Future[Any]
    encode: Callable[[], Work]


class Engine:
    """Answers, scores and runs tasks on one device.

    Every method may be called from any thread and returns a future at once. Cancelling the future
    drops its work if that has not ended.

    ```python
    engine = Engine(LocalModels(source, settings, workdir), settings)
    completion = await asyncio.wrap_future(engine.answer(request))
    engine.close()
    ```
    """

    def __init__(self, models: LocalModels, settings: LocalSettings) -> None:
        self._models = models
        self._settings = settings
        self._decoders: dict[Route, Decoder] = {}
        self._current: Decoder | None = None
        self._running: dict[DecodingRow, CompletionWork] = {}
        self._waiting: list[Work] = []
        self._arrived: list[_Arrival] = []
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None

    def answer(self, request: Request) -> Future[Completion]:
        """Complete a conversation."""
        future: Future[Completion] = Future()
        asked_at = time.perf_counter()

        def encode() -> CompletionWork:
            backbone, adapter = self._models.find(request.model.artifact)
            row = encode_request(backbone, adapter, request)
            return CompletionWork(future, asked_at, Route.of(backbone, row), row)

        self._accept(_Arrival(future, encode))
        return future

    def score(self, artifact: str | None, messages: Sequence[Message], text: str) -> Future[Score]:
        """Score a given answer."""
        future: Future[Score] = Future()

        def encode() -> ScoringWork:
            backbone, adapter = self._models.find(artifact)
            return ScoringWork(future, backbone, encode_passage(backbone, adapter, messages, text))

        self._accept(_Arrival(future, encode))
        return future

    def compare(
        self, artifacts: Sequence[str | None], messages: Sequence[Message], text: str
    ) -> Future[tuple[Divergence, ...]]:
        """Compare the first of some models with all the others along a given answer."""
        future: Future[tuple[Divergence, ...]] = Future()

        def encode() -> DivergenceWork:
            found = [self._models.find(artifact) for artifact in artifacts]
            passages = (encode_passage(b, adapter, messages, text) for b, adapter in found)
            return DivergenceWork(
                future, DivergenceQuery(tuple(passages), tuple(b for b, _ in found))
            )

        self._accept(_Arrival(future, encode))
        return future

    def run(self, task: Callable[[], T]) -> Future[T]:
        """Call `task` in the device's thread while nothing else uses the device."""
        future: Future[T] = Future()
        self._accept(_Arrival(future, lambda: DeviceTask(future, task)))
        return future

    def close(self) -> None:
        """Stop after the current step and wait for the thread; open work raises `RunError`."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        self._abandon(RunError("the provider was closed before this was done; connect again"))
        self._decoders, self._current = {}, None

    def _accept(self, arrival: _Arrival) -> None:
        with self._changed:
            if self._closing:
                raise RunError("the provider is closed; connect again to use it")
            if self._thread is None:
                # A daemon, so that a process that forgets to close the provider can still end.
                self._thread = threading.Thread(target=self._work, name="local-model", daemon=True)
                self._thread.start()
            self._arrived.append(arrival)
            self._changed.notify()

    def _abandon(self, error: RunError, cause: BaseException | None = None) -> None:
        with self._changed:
            self._closing = True
            left = [*self._running.values(), *self._waiting, *self._arrived]
            self._running, self._waiting, self._arrived = {}, [], []
        set_error((work.future for work in left), error, cause)

    def _work(self) -> None:
        try:
            if self._settings.threads is not None:
                torch.set_num_threads(self._settings.threads)
            while self._take_arrivals():
                self._do_next()
        # Without this, every caller would wait forever for a thread that is gone.
        except BaseException as error:
            self._abandon(RunError(f"the local model's thread broke off: {error!r}"), error)
            raise

    def _take_arrivals(self) -> bool:
        """Wait for work and encode what arrived; False once the engine is closing."""
        with self._changed:
            while not (self._closing or self._arrived or self._waiting or self._running):
                self._changed.wait()
            # Wait on until no call has come for a moment: calls made together share a batch. While
            # rows are running there is no need to, since later calls can join them.
            count = -1
            while not self._running and not self._closing and count != len(self._arrived):
                count = len(self._arrived)
                self._changed.wait(_GATHERING_S)
            if self._closing:
                return False
            arrived, self._arrived = self._arrived, []
        for arrival in arrived:
            with deliver_errors(arrival.future):
                self._waiting.append(arrival.encode())
        return True

    def _do_next(self) -> None:
        """Admit or do what the oldest waiting work asks for, then draw one token per row."""
        self._waiting = [work for work in self._waiting if not work.future.cancelled()]
        head = self._waiting[0] if self._waiting else None
        if isinstance(head, CompletionWork):
            self._admit(head)
        elif head is not None and not self._running:
            self._do_alone(head)
        if self._running and self._current is not None:
            self._step(self._current)

    def _admit(self, head: CompletionWork) -> None:
        """Let `head` and requests like it join the running batch, if they fit."""
        decoder = self._get_decoder(head.route)
        if decoder is not self._current:
            # A batch of another route is running; it ends first.
            if self._running:
                return
            if self._current is not None:
                self._current.release()
            self._current = decoder
        alike = self._select_alike(head)
        joining = decoder.select_fitting(list(alike))
        taken = {row: alike[row] for row in joining}
        if taken:
            works = set(taken.values())
            self._waiting = [work for work in self._waiting if work not in works]
            self._running |= taken
            with self._halve_if_out_of_memory(decoder):
                decoder.admit(joining)

    def _select_alike(self, head: CompletionWork) -> dict[DecodingRow, CompletionWork]:
        """The waiting requests of the same route, those closest to `head` in length first.

        Prompts of less than half or more than twice its length wait for a batch of their own,
        unless the batch would be small.
        """
        route = head.route
        waiting = {
            work.row: work
            for work in self._waiting
            if isinstance(work, CompletionWork) and work.route == route
        }
        size = head.row.length
        order = sorted(waiting, key=lambda row: (row is not head.row, abs(row.length - size)))
        alike = sum(size <= 2 * row.length <= 4 * size for row in order)
        return {row: waiting[row] for row in order[: max(alike, _SMALL_BATCH)]}

    def _step(self, decoder: Decoder) -> None:
        """Draw one token for every row, and finish the requests whose rows have ended."""
        self._mark_abandoned()
        ended: list[DecodingRow] = []
        with self._halve_if_out_of_memory(decoder):
            ended = decoder.step()
        for row in ended:
            work = self._running.pop(row)
            with deliver_errors(work.future):
                work.finish()

    def _mark_abandoned(self) -> bool:
        """Mark the rows that nobody waits for any more; whether the engine is closing."""
        for row, work in self._running.items():
            row.abandoned = work.future.cancelled()
        return self._closing

    @contextlib.contextmanager
    def _halve_if_out_of_memory(self, decoder: Decoder) -> Iterator[None]:
        """If memory runs out, start the batch again in halves; a request that fails alone fails."""
        try:
            yield
        except Exception as error:
            batch = sorted(self._running.values(), key=lambda work: work.asked_at)
            self._running = {}
            if hardware.is_out_of_memory(error) and len(batch) > 1:
                # A restarted row draws the same tokens again, so no answer depends on the memory.
                decoder.shrink()
                for work in batch:
                    work.row.restart()
                self._waiting = [*batch, *self._waiting]
            else:
                self._decoders, self._current = {}, None
                futures = [work.future for work in batch]
                if hardware.is_out_of_memory(error):
                    set_error(futures, batch[0].make_memory_error(error), error)
                else:
                    set_error(futures, RunError(f"the model failed to answer: {error!r}"), error)
            hardware.release_memory(error)

    def _do_alone(self, head: ScoringWork | DivergenceWork | DeviceTask) -> None:
        # Nothing is running, so the caches only hold memory that the work may need.
        for decoder in self._decoders.values():
            decoder.release()
        if isinstance(head, DeviceTask):
            self._waiting.remove(head)
            with deliver_errors(head.future):
                set_result(head.future, head.run())
            return
        if isinstance(head, ScoringWork):
            scorings = [
                work
                for work in self._waiting
                if isinstance(work, ScoringWork) and work.backbone is head.backbone
            ]
            self._measure(
                scorings, lambda some: score_passages(head.backbone, [w.passage for w in some])
            )
        else:
            comparisons = [work for work in self._waiting if isinstance(work, DivergenceWork)]
            self._measure(comparisons, lambda some: measure_divergences([w.query for w in some]))

    def _measure(self, batch: Sequence[M], measure: Callable[[Sequence[M]], Sequence[Any]]) -> None:
        """Do the work of `batch` with `measure`, in halves if memory runs out."""
        taken: set[Work] = set(batch)
        self._waiting = [work for work in self._waiting if work not in taken]
        try:
            results = measure(batch)
        except Exception as error:
            hardware.release_memory(error)
            futures = [work.future for work in batch]
            if not hardware.is_out_of_memory(error):
                set_error(futures, RunError(f"the model failed to score: {error!r}"), error)
            elif len(batch) == 1:
                set_error(futures, OutOfMemory(f"scoring one text does not fit: {error}"), error)
            else:
                self._measure(batch[: len(batch) // 2], measure)
                self._measure(batch[len(batch) // 2 :], measure)
            return
        for work, result in zip(batch, results, strict=True):
            set_result(work.future, result)

    def _get_decoder(self, route: Route) -> Decoder:
        if route not in self._decoders:
            # Free the caches of other routes; one that is answering keeps its own.
            self._decoders = {known: d for known, d in self._decoders.items() if d.active}
            backbone = route.backbone
            rows = self._settings.max_batch_size or _DEFAULT_ROWS
            tokens = self._settings.max_batch_tokens or hardware.count_cache_tokens(
                backbone.device, backbone.slot_bytes, backbone.weight_bytes
            )
            self._decoders[route] = make_decoder(
                route.decoder, backbone, rows, tokens, self._mark_abandoned
            )
        return self._decoders[route]
