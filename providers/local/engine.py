"""The one thread that owns the device: it gathers what is waiting and works it off in batches.

Work is taken in order of arrival. The oldest waiting request decides what happens next: if it can
join the running batch, it and its like do; if it cannot, the batch is worked off first. So nothing
starves, and a training job starts when the requests before it are answered and holds up those
after it.
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
from providers.local import memory
from providers.local.backbone import Backbone
from providers.local.decode import SlotDecoder
from providers.local.divergence import Contrast, divergences
from providers.local.models import Models
from providers.local.padded import PaddedDecoder
from providers.local.rows import Decoder, Row
from providers.local.score import encode_passage, score
from providers.local.settings import LocalSettings
from providers.local.work import (
    Answer,
    Comparing,
    Scoring,
    Task,
    Work,
    encode_request,
    errors_to,
    fail,
    resolve,
)
from providers.types import Completion, Divergence, Message, Request, Score

T = TypeVar("T")
M = TypeVar("M", Scoring, Comparing)

_DEFAULT_ROWS = 256
_GATHERING_S = 0.005
_SMALL_BATCH = 32


@dataclass(frozen=True, eq=False, slots=True)
class _Arrival:
    """Work whose text is not yet tokens; `encode` is for the device's thread."""

    future: Future[Any]
    encode: Callable[[], Work]


class Engine:
    """Answers, scores and runs tasks on one device.

    Every method may be called from any thread and returns at once with a future; cancelling it
    gives up work that has not ended.
    """

    def __init__(self, models: Models, settings: LocalSettings) -> None:
        self._models = models
        self._settings = settings
        self._decoders: dict[Backbone, Decoder] = {}
        self._current: Decoder | None = None
        self._running: dict[Row, Answer] = {}
        self._waiting: list[Work] = []
        self._arrived: list[_Arrival] = []
        self._news = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None

    def answer(self, request: Request) -> Future[Completion]:
        """Complete a conversation."""
        future: Future[Completion] = Future()
        asked_at = time.perf_counter()

        def encode() -> Answer:
            backbone, adapter = self._models.find(request.model.artifact)
            return Answer(future, asked_at, backbone, encode_request(backbone, adapter, request))

        self._accept(_Arrival(future, encode))
        return future

    def score(self, artifact: str | None, messages: Sequence[Message], text: str) -> Future[Score]:
        """Score a given answer."""
        future: Future[Score] = Future()

        def encode() -> Scoring:
            backbone, adapter = self._models.find(artifact)
            return Scoring(future, backbone, encode_passage(backbone, adapter, messages, text))

        self._accept(_Arrival(future, encode))
        return future

    def compare(
        self, artifacts: Sequence[str | None], messages: Sequence[Message], text: str
    ) -> Future[tuple[Divergence, ...]]:
        """Compare the first of some models with all the others along a given answer."""
        future: Future[tuple[Divergence, ...]] = Future()

        def encode() -> Comparing:
            found = [self._models.find(artifact) for artifact in artifacts]
            passages = (encode_passage(b, adapter, messages, text) for b, adapter in found)
            return Comparing(future, Contrast(tuple(passages), tuple(b for b, _ in found)))

        self._accept(_Arrival(future, encode))
        return future

    def run(self, task: Callable[[], T]) -> Future[T]:
        """Call `task` in the device's thread while nothing else uses the device."""
        future: Future[T] = Future()
        self._accept(_Arrival(future, lambda: Task(future, task)))
        return future

    def close(self) -> None:
        """Stop after the current step; what is not done raises `RunError`. Waits for the thread."""
        with self._news:
            self._closing = True
            self._news.notify()
        if self._thread is not None:
            self._thread.join()
        self._abandon(RunError("the provider was closed before this was done; connect again"))
        self._decoders, self._current = {}, None

    def _accept(self, arrival: _Arrival) -> None:
        with self._news:
            if self._closing:
                raise RunError("the provider is closed; connect again to go on")
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="local-model", daemon=True)
                self._thread.start()
            self._arrived.append(arrival)
            self._news.notify()

    def _abandon(self, error: RunError, cause: BaseException | None = None) -> None:
        with self._news:
            self._closing = True
            left = [*self._running.values(), *self._waiting, *self._arrived]
            self._running, self._waiting, self._arrived = {}, [], []
        fail((work.future for work in left), error, cause)

    def _work(self) -> None:
        try:
            if self._settings.threads is not None:
                torch.set_num_threads(self._settings.threads)
            while self._take_arrivals():
                self._go_on()
        except BaseException as error:
            self._abandon(RunError(f"the local model's thread broke off: {error!r}"), error)
            raise

    def _take_arrivals(self) -> bool:
        """Wait for something to do and take in what came; False when it is time to stop."""
        with self._news:
            while not (self._closing or self._arrived or self._waiting or self._running):
                self._news.wait()
            count = -1
            while not self._running and not self._closing and count != len(self._arrived):
                count = len(self._arrived)
                self._news.wait(_GATHERING_S)
            if self._closing:
                return False
            arrived, self._arrived = self._arrived, []
        for arrival in arrived:
            with errors_to(arrival.future):
                self._waiting.append(arrival.encode())
        return True

    def _go_on(self) -> None:
        self._waiting = [work for work in self._waiting if not work.future.cancelled()]
        head = self._waiting[0] if self._waiting else None
        if isinstance(head, Answer):
            self._admit(head)
        elif head is not None and not self._running:
            self._attend(head)
        if self._running and self._current is not None:
            self._step(self._current)

    def _admit(self, head: Answer) -> None:
        decoder = self._decoder(head.backbone)
        if decoder is not self._current:
            if self._running:
                return
            if self._current is not None:
                self._current.release()
            self._current = decoder
        alike = self._alike(head)
        joining = decoder.fitting(list(alike))
        taken = {row: alike[row] for row in joining}
        if taken:
            works = set(taken.values())
            self._waiting = [work for work in self._waiting if work not in works]
            self._running |= taken
            with self._within_memory(decoder):
                decoder.admit(joining)

    def _alike(self, head: Answer) -> dict[Row, Answer]:
        """The waiting requests for the same model, the ones most like `head` in length first.

        Prompts of less than half or more than twice its length wait for a batch of their own,
        unless the batch would be small.
        """
        waiting = {
            work.row: work
            for work in self._waiting
            if isinstance(work, Answer) and work.backbone is head.backbone
        }
        size = head.row.length
        order = sorted(waiting, key=lambda row: (row is not head.row, abs(row.length - size)))
        alike = sum(size <= 2 * row.length <= 4 * size for row in order)
        return {row: waiting[row] for row in order[: max(alike, _SMALL_BATCH)]}

    def _step(self, decoder: Decoder) -> None:
        for row, work in self._running.items():
            row.abandoned = work.future.cancelled()
        ended: list[Row] = []
        with self._within_memory(decoder):
            ended = decoder.step()
        for row in ended:
            work = self._running.pop(row)
            with errors_to(work.future):
                work.finish()

    @contextlib.contextmanager
    def _within_memory(self, decoder: Decoder) -> Iterator[None]:
        """Where memory runs out, start the batch again in halves; fail what does not fit alone."""
        try:
            yield
        except Exception as error:
            batch = sorted(self._running.values(), key=lambda work: work.asked_at)
            self._running = {}
            if memory.ran_out(error) and len(batch) > 1:
                decoder.shrink()
                for work in batch:
                    work.row.restart()
                self._waiting = [*batch, *self._waiting]
            else:
                self._decoders, self._current = {}, None
                futures = [work.future for work in batch]
                if memory.ran_out(error):
                    fail(futures, batch[0].too_large(error), error)
                else:
                    fail(futures, RunError(f"the model failed to answer: {error!r}"), error)
            memory.release(error)

    def _attend(self, head: Scoring | Comparing | Task) -> None:
        for decoder in self._decoders.values():
            decoder.release()
        if isinstance(head, Task):
            self._waiting.remove(head)
            with errors_to(head.future):
                resolve(head.future, head.run())
            return
        if isinstance(head, Scoring):
            scorings = [
                work
                for work in self._waiting
                if isinstance(work, Scoring) and work.backbone is head.backbone
            ]
            self._measure(scorings, lambda some: score(head.backbone, [w.passage for w in some]))
        else:
            comparings = [work for work in self._waiting if isinstance(work, Comparing)]
            self._measure(comparings, lambda some: divergences([w.contrast for w in some]))

    def _measure(self, batch: Sequence[M], measure: Callable[[Sequence[M]], Sequence[Any]]) -> None:
        """Work off `batch` with `measure`, in halves where memory runs out."""
        taken: set[Work] = set(batch)
        self._waiting = [work for work in self._waiting if work not in taken]
        try:
            results = measure(batch)
        except Exception as error:
            memory.release(error)
            futures = [work.future for work in batch]
            if not memory.ran_out(error):
                fail(futures, RunError(f"the model failed to score: {error!r}"), error)
            elif len(batch) == 1:
                fail(futures, OutOfMemory(f"scoring one text does not fit: {error}"), error)
            else:
                self._measure(batch[: len(batch) // 2], measure)
                self._measure(batch[len(batch) // 2 :], measure)
            return
        for work, result in zip(batch, results, strict=True):
            resolve(work.future, result)

    def _decoder(self, backbone: Backbone) -> Decoder:
        if backbone not in self._decoders:
            self._decoders = {known: d for known, d in self._decoders.items() if d.active}
            rows = self._settings.max_batch_size or _DEFAULT_ROWS
            tokens = self._settings.max_batch_tokens or memory.cache_tokens(
                backbone.device, backbone.slot_bytes
            )
            make = SlotDecoder if backbone.attends_to_all else PaddedDecoder
            self._decoders[backbone] = make(backbone, rows, tokens)
        return self._decoders[backbone]
