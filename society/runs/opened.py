"""A stored run as an object: query it, ask its society, find its models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Self
from weakref import WeakKeyDictionary

from evals import stored_run
from society.config.load import ConfigError
from society.config.schema import Config
from society.costs.budget import is_free
from society.runs.accuracy_table import AccuracyTable, read_accuracy_table
from society.runs.answer import SocietyAnswer, build_answer
from society.runs.apart import call_apart
from society.runs.ask import debate_question, find_iteration, open_store
from society.runs.folder import RunFolder
from store.binding import Params
from store.ledger import Store
from store.query import Query
from store.records import Turn


class OpenRun:
    """One run, open for reading. Close it, or use it in a `with` block.

        with society.open_run("first") as run:
            print(run.query("FROM accuracy").frame())
            print(run.ask("3+4*5+6-7*8").answer)

    A run in progress can be read too; the process that writes to it answers the queries.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = (
            WeakKeyDictionary()
        )
        self._store = Store.open(folder.database, read_only=True)

    @property
    def name(self) -> str:
        """The run's name."""
        return self.folder.name

    @property
    def store(self) -> Store:
        """Its records: turns, votes, datasets, jobs and models (`store.ledger.Store`)."""
        return self._store

    @property
    def config(self) -> Config:
        """The experiment as it was started last. Raises `NothingStored` if it never was."""
        return Config.from_json(stored_run.load_run(self._store).config)

    @property
    def running(self) -> bool:
        """Whether a process is writing to the run now."""
        return self._store.running

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return stored_run.load_run(self._store).finished_at is not None

    def query(self, sql: str, params: Params | None = None) -> Query:
        """One reading query: `.frame()`, `.rows`, `.relation()`, `.pandas()`, `.polars()`, …

        run.query("FROM accuracy WHERE measure = $m", {"m": "consensus"}).frame()
        """
        return self._store.query(sql, params)

    def accuracy(self) -> AccuracyTable:
        """The accuracies of every arm after every iteration, with the report's 95 % intervals.

        run.accuracy()  # in a notebook: a table
        run.accuracy().frame()
        """
        return read_accuracy_table(self._store, self.config.task.name)

    def ask(
        self,
        question: str,
        iteration: int | None = None,
        on_turn: Callable[[Turn], None] = lambda turn: None,
    ) -> SocietyAnswer:
        """Let the society of an iteration, by default the run's own, debate a question.

        `on_turn` gets every turn as it comes. The turns are not stored, but what they cost is: a
        run that pays is opened for writing meanwhile, and cannot be queried. Raises `ConfigError`
        for an empty question or an iteration without a society, `StoreLocked` for a running run
        that pays, and the provider's errors.
        """
        with self._open_for_asking() as store:
            debate = partial(_hold_debate, self.folder, store, question, iteration, on_turn)
            return call_apart(lambda stop: asyncio.run(stop.guard(debate())))

    async def ask_async(
        self,
        question: str,
        iteration: int | None = None,
        on_turn: Callable[[Turn], None] = lambda turn: None,
    ) -> SocietyAnswer:
        """`ask`, for an event loop that is running: other tasks go on meanwhile.

        Questions that are asked at the same time are debated one after another; `society ask
        --questions` holds many debates side by side.

            found = await run.ask_async("3+4*5+6-7*8")
        """
        # A lock belongs to the loop that has waited for it.
        turn = self._turns.setdefault(asyncio.get_running_loop(), asyncio.Lock())
        async with turn:
            with self._open_for_asking() as store:
                return await _hold_debate(self.folder, store, question, iteration, on_turn)

    @contextmanager
    def _open_for_asking(self) -> Iterator[Store]:
        if is_free(self.config):
            with open_store(self.folder) as store:
                yield store
            return
        # DuckDB does not open a file for writing that this process has open for reading.
        self._store.close()
        try:
            with open_store(self.folder) as store:
                yield store
        finally:
            self._store = Store.open(self.folder.database, read_only=True)

    def __repr__(self) -> str:
        """Its name and folder."""
        return f"<run {self.name} in {self.folder.path.parent}/>"

    def close(self) -> None:
        """Let go of the database, so that the run can be resumed; closing twice is fine."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def _hold_debate(
    folder: RunFolder,
    store: Store,
    question: str,
    iteration: int | None,
    on_turn: Callable[[Turn], None],
) -> SocietyAnswer:
    if not question.strip():
        raise ConfigError(f"the question {question!r} is empty; ask something")
    config = Config.from_json(stored_run.load_run(store).config)
    found = find_iteration(store, config, iteration)
    turns: list[Turn] = []

    def keep(turn: Turn) -> None:
        turns.append(turn)
        on_turn(turn)

    tallies = await debate_question(folder, config, store, question, found, keep)
    return build_answer(question, config.society.agents, found, tallies, turns)
