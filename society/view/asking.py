"""Questions to a run's database from a web server: off the event loop, within a time limit.

A `Desk` remembers expensive answers until the run's files have changed. While a run writes they
change all the time; then an answer is kept `_PATIENCE` times as long as computing it took, but no
longer than `_STALE_AFTER_S`, so that watching a large run costs it little.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import duckdb

from store.reader import Reader, open_reader

T = TypeVar("T")
Work = Callable[[Reader], T]
FileState = tuple[tuple[int, int], ...]
_PATIENCE = 5.0
_STALE_AFTER_S = 30.0
_REMEMBERED = 256


class TookTooLong(Exception):
    """A query was stopped at the time limit."""


@dataclass(frozen=True, slots=True)
class _Remembered:
    state: FileState
    value: Any
    cost_s: float
    at: float

    def good_for(self, state: FileState) -> bool:
        kept_s = min(self.cost_s * _PATIENCE, _STALE_AFTER_S)
        return self.state == state or time.monotonic() - self.at < kept_s


def file_state(database: Path) -> FileState:
    """What changes whenever the database does: size and time of it, its log and its notice."""
    found = []
    for path in (
        database,
        database.with_name(database.name + ".wal"),
        database.with_name("progress.json"),
    ):
        try:
            facts = path.stat()
            found.append((facts.st_mtime_ns, facts.st_size))
        except OSError:
            found.append((0, 0))
    return tuple(found)


class Desk:
    """Takes questions to databases; `limit_s` seconds is the most that one may take."""

    def __init__(self, limit_s: float = 20.0, threads: int = 4) -> None:
        self._limit_s = limit_s
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="view")
        self._answers: OrderedDict[tuple[Path, Hashable], _Remembered] = OrderedDict()
        self._asked: dict[tuple[Path, Hashable], asyncio.Task[Any]] = {}

    async def ask(self, database: Path, work: Work[T]) -> T:
        """What `work` finds with a reader of its own.

        Raises what `open_reader` and `work` raise, and `TookTooLong`.
        """
        readers: list[Reader] = []

        def answer() -> T:
            with open_reader(database) as reader:
                readers.append(reader)
                return work(reader)

        future = asyncio.get_running_loop().run_in_executor(self._pool, answer)
        done, _ = await asyncio.wait({future}, timeout=self._limit_s)
        while not done:
            # Between two queries nothing can be stopped, so once is not always enough.
            for reader in readers:
                reader.interrupt()
            done, _ = await asyncio.wait({future}, timeout=0.2)
        try:
            return await future
        except duckdb.InterruptException:
            raise TookTooLong(f"stopped after {self._limit_s:g} seconds") from None

    async def remembered(self, database: Path, name: Hashable, work: Work[T]) -> T:
        """Like `ask`, but asked once per state of the run's files; `name` tells works apart."""
        task = self._started(database, name, work)
        return task if not isinstance(task, asyncio.Task) else await asyncio.shield(task)

    async def soon(self, database: Path, name: Hashable, work: Work[T], until: float) -> T | None:
        """Like `remembered`, or None if `time.monotonic()` comes to `until` without an answer.

        The question stays asked then.
        """
        task = self._started(database, name, work)
        if not isinstance(task, asyncio.Task):
            return task
        done, _ = await asyncio.wait({task}, timeout=max(0.0, until - time.monotonic()))
        return task.result() if done else None

    def version(self, database: Path) -> str:
        """Changes when there is something new to see.

        That is when the run's files change, when an answer that was awaited is there, and when one
        that was kept though the files had changed is no longer good enough.
        """
        state = file_state(database)
        here = [entry for (path, _), entry in self._answers.items() if path == database]
        newest = max((entry.at for entry in here), default=0.0)
        outdated = sum(not entry.good_for(state) for entry in here)
        return f"{hash((state, newest, outdated)) & 0xFFFF_FFFF_FFFF:x}"

    def close(self) -> None:
        """Wait for nothing any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _started(self, database: Path, name: Hashable, work: Work[T]) -> T | asyncio.Task[T]:
        key = (database, name)
        known = self._answers.get(key)
        if known is not None and known.good_for(file_state(database)):
            self._answers.move_to_end(key)
            value: T = known.value
            return value
        task = self._asked.get(key)
        if task is None:
            task = asyncio.create_task(self._ask_and_remember(key, work))
            self._asked[key] = task
            task.add_done_callback(lambda done: self._finished(key, done))
        return task

    async def _ask_and_remember(self, key: tuple[Path, Hashable], work: Work[T]) -> T:
        state, started = file_state(key[0]), time.monotonic()
        value = await self.ask(key[0], work)
        now = time.monotonic()
        self._answers[key] = _Remembered(state, value, now - started, now)
        while len(self._answers) > _REMEMBERED:
            self._answers.popitem(last=False)
        return value

    def _finished(self, key: tuple[Path, Hashable], task: asyncio.Task[Any]) -> None:
        del self._asked[key]
        if not task.cancelled():
            # Whoever waits sees the error; if nobody does, the next one asks again.
            task.exception()
