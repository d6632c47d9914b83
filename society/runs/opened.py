"""A stored run as an object: query it, ask its society, find its models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Self

from evals import stored_run
from society.config.load import ConfigError
from society.config.schema import Config
from society.runs.apart import call_apart
from society.runs.ask import debate_question, find_iteration, open_store
from society.runs.folder import RunFolder
from store.binding import Params
from store.ledger import Store
from store.query import Query
from store.records import Turn


@dataclass(frozen=True, slots=True)
class SocietyAnswer:
    """What a society answered: the vote of its last round, and every turn of its debate.

    `answer` is None if no agent stated one. `votes` of `agents` agents gave it; after a `tie` a
    hash has decided.
    """

    answer: str | None
    votes: int
    agents: int
    tie: bool
    iteration: int
    turns: tuple[Turn, ...]


class OpenRun:
    """One run, open for reading. Close it, or use it in a `with` block.

        with society.open_run("first") as run:
            print(run.query("FROM accuracy").frame())
            print(run.ask("3+4*5+6-7*8").answer)

    A run in progress can be read too; the process that writes to it answers the queries.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
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

    def ask(
        self,
        question: str,
        iteration: int | None = None,
        on_turn: Callable[[Turn], None] = lambda turn: None,
    ) -> SocietyAnswer:
        """Let the society of an iteration, by default the run's own, debate a question.

        `on_turn` gets every turn as it comes. The turns are not stored, but what they cost is: a
        run that pays is opened for writing meanwhile. Raises `ConfigError` for an empty question or
        an iteration without a society, `StoreLocked` for a running run that pays, and the
        provider's errors.
        """
        if not question.strip():
            raise ConfigError(f"the question {question!r} is empty; ask something")
        # DuckDB does not open a file for writing that this process has open for reading.
        self._store.close()
        try:
            with open_store(self.folder) as store:
                return _hold_debate(self.folder, store, question, iteration, on_turn)
        finally:
            self._store = Store.open(self.folder.database, read_only=True)

    def close(self) -> None:
        """Let go of the database, so that the run can be resumed; closing twice is fine."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _hold_debate(
    folder: RunFolder,
    store: Store,
    question: str,
    iteration: int | None,
    on_turn: Callable[[Turn], None],
) -> SocietyAnswer:
    config = Config.from_json(stored_run.load_run(store).config)
    found = find_iteration(store, config, iteration)
    turns: list[Turn] = []

    def keep(turn: Turn) -> None:
        turns.append(turn)
        on_turn(turn)

    debate = partial(debate_question, folder, config, store, question, found, keep)
    tally = call_apart(lambda stop: asyncio.run(stop.guard(debate())))
    return SocietyAnswer(
        tally.answer, tally.votes, config.society.agents, tally.tie, found, tuple(turns)
    )
