"""Asynchronous requests of the stand-in of Tinker's wire, and the one thread that does them.

Work is done in the order of arrival; answers that wait at the same time and come from the same
weights share a batch.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.providers.tinker_adapters import Answer

Json = dict[str, Any]
_GATHERING_S = 0.004


class TinkerRefused(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class TinkerDropped(Exception):
    """The connection is closed without an answer."""


@dataclass
class Future:
    """One request: `work` computes its result, after `answers` are there from the weights in
    `folder`. `result` or `refused` is set once it is `done`."""

    work: Callable[[], Json]
    answers: list[Answer] = field(default_factory=list)
    folder: Path | None = None
    done: threading.Event = field(default_factory=threading.Event)
    result: Json = field(default_factory=dict)
    refused: Exception | None = None


class FutureQueue:
    """The futures of one server; `sample` answers a batch of answers from one folder."""

    def __init__(self, sample: Callable[[Path | None, list[Answer]], None]) -> None:
        self._sample = sample
        self._futures: dict[str, Future] = {}
        self._waiting: queue.Queue[Future | None] = queue.Queue()
        threading.Thread(target=self._run, daemon=True).start()

    def add(self, request_id: str, future: Future) -> None:
        """Let it be done after those before."""
        self._futures[request_id] = future
        self._waiting.put(future)

    def retrieve(self, request_id: str, patience_s: float = 20.0) -> Json:
        """The result of a request, waiting for it. Raises what the request ended with."""
        future = self._futures.get(request_id)
        if future is None:
            raise TinkerRefused(404, "Future not found")
        if not future.done.wait(patience_s):
            raise TinkerRefused(408, "Timeout waiting for result")
        if future.refused is not None:
            raise future.refused
        return future.result

    def drain(self) -> None:
        """Wait until all work that has come so far is done."""
        last = Future(dict)
        self._waiting.put(last)
        last.done.wait()

    def forget(self) -> None:
        """Lose all futures, as a server that starts anew; who waits for one is cut off."""
        for future in self._futures.values():
            if not future.done.is_set():
                future.refused = TinkerDropped()
                future.done.set()
        self._futures = {}

    def close(self) -> None:
        """End the thread once the work before is done."""
        self._waiting.put(None)

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch = [first]
            if first.answers:
                time.sleep(_GATHERING_S)
            while not self._waiting.empty():
                batch.append(self._waiting.get())
            asked = [future for future in batch if future is not None and not future.done.is_set()]
            for future in asked:
                if not future.answers:
                    _complete(future)
            sampling = [future for future in asked if future.answers]
            for folder in dict.fromkeys(future.folder for future in sampling):
                alike = [future for future in sampling if future.folder == folder]
                self._sample(folder, [answer for future in alike for answer in future.answers])
                for future in alike:
                    _complete(future)
            if None in batch:
                return


def _complete(future: Future) -> None:
    if future.done.is_set():
        return
    try:
        future.result = future.work()
    except (TinkerRefused, TinkerDropped) as refused:
        future.refused = refused
    except Exception as error:
        # As SkyRL does: every failure of the work is a 400 with its text.
        future.refused = TinkerRefused(400, str(error))
    future.done.set()
