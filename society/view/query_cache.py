"""Questions to a run's database from a web server: off the event loop, within a time limit.

A `QueryCache` remembers expensive answers until the run's files have changed. While a run writes
they change all the time; then an answer is kept `_PATIENCE` times as long as computing it took, but
no longer than `_STALE_AFTER_S`, so that watching a large run costs it little.
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
class _CachedAnswer:
    state: FileState
    value: Any
    cost_s: float
    at: float

    def good_for(self, state: FileState) -> bool:
        # A cheap answer is fresh soon after a change; an expensive one may be old for some seconds,
        # so that its query takes at most a sixth of the time.
        kept_s = min(self.cost_s * _PATIENCE, _STALE_AFTER_S)
        return self.state == state or time.monotonic() - self.at < kept_s


def read_file_state(database: Path) -> FileState:
    """Size and time of the database, its log and its progress file: these change with the data."""
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


class QueryCache:
    """Runs queries in threads and keeps their answers; a query may take `limit_s` seconds.

    cache = QueryCache()
    models = await cache.get(database, "models", lineage.list_models)
    """

    def __init__(self, limit_s: float = 20.0, threads: int = 4) -> None:
        self._limit_s = limit_s
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="view")
        self._stored: OrderedDict[tuple[Path, Hashable], _CachedAnswer] = OrderedDict()
        self._running: dict[tuple[Path, Hashable], asyncio.Task[Any]] = {}

    async def query(self, database: Path, work: Work[T]) -> T:
        """What `work` finds with a reader of its own.

        Raises what `open_reader` and `work` raise, and `TookTooLong`.
        """
        # The thread hands its reader out, so that the event loop can interrupt the query from
        # outside.
        readers: list[Reader] = []

        def answer() -> T:
            with open_reader(database) as reader:
                readers.append(reader)
                return work(reader)

        future = asyncio.get_running_loop().run_in_executor(self._pool, answer)
        done, _ = await asyncio.wait({future}, timeout=self._limit_s)
        while not done:
            # An interrupt between two queries of `work` has no effect, so it is repeated.
            for reader in readers:
                reader.interrupt()
            done, _ = await asyncio.wait({future}, timeout=0.2)
        try:
            return await future
        except duckdb.InterruptException:
            raise TookTooLong(f"stopped after {self._limit_s:g} seconds") from None

    async def get(self, database: Path, name: Hashable, work: Work[T]) -> T:
        """Like `query`, but asked once per state of the run's files; `name` tells works apart."""
        task = self._start(database, name, work)
        # Shielded: a browser that disconnects must not cancel the query that others wait for.
        return task if not isinstance(task, asyncio.Task) else await asyncio.shield(task)

    async def get_until(
        self, database: Path, name: Hashable, work: Work[T], until: float
    ) -> T | None:
        """Like `get`, but None if there is no answer when `time.monotonic()` reaches `until`.

        The query then goes on, so that a later call finds its answer.
        """
        task = self._start(database, name, work)
        if not isinstance(task, asyncio.Task):
            return task
        # `wait`, unlike `wait_for`, leaves the task running when the time is over.
        done, _ = await asyncio.wait({task}, timeout=max(0.0, until - time.monotonic()))
        return task.result() if done else None

    def version(self, database: Path) -> str:
        """A text that changes when a page has something new to show.

        It changes when the run's files do, when an answer arrives, and when an answer that was kept
        although the files had changed becomes too old.
        """
        state = read_file_state(database)
        here = [entry for (path, _), entry in self._stored.items() if path == database]
        newest = max((entry.at for entry in here), default=0.0)
        outdated = sum(not entry.good_for(state) for entry in here)
        return f"{hash((state, newest, outdated)) & 0xFFFF_FFFF_FFFF:x}"

    def close(self) -> None:
        """Give up all queries that still wait."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start(self, database: Path, name: Hashable, work: Work[T]) -> T | asyncio.Task[T]:
        key = (database, name)
        known = self._stored.get(key)
        if known is not None and known.good_for(read_file_state(database)):
            self._stored.move_to_end(key)
            value: T = known.value
            return value
        # Pages that ask the same at the same time share one query.
        task = self._running.get(key)
        if task is None:
            task = asyncio.create_task(self._query_and_store(key, work))
            self._running[key] = task
            task.add_done_callback(lambda done: self._finish(key, done))
        return task

    async def _query_and_store(self, key: tuple[Path, Hashable], work: Work[T]) -> T:
        # The state before the query: a write meanwhile makes the answer old and not fresh.
        state, started = read_file_state(key[0]), time.monotonic()
        value = await self.query(key[0], work)
        now = time.monotonic()
        self._stored[key] = _CachedAnswer(state, value, now - started, now)
        while len(self._stored) > _REMEMBERED:
            self._stored.popitem(last=False)
        return value

    def _finish(self, key: tuple[Path, Hashable], task: asyncio.Task[Any]) -> None:
        del self._running[key]
        if not task.cancelled():
            # Reading the error marks it as seen: callers that wait get it, and it is not cached.
            task.exception()
