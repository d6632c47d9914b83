"""The stored turns of a run, looked up in its database file (tables: docs/schema.md)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from providers.errors import InvalidSettings, RequestError, RunError
from providers.types import Completion, FinishReason

_REQUESTS_PER_QUERY = 512
# DuckDB lets one process open a file twice only with the same settings: these are the store's.
_SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
}
# The keys come as one JSON text: DuckDB binds a long list value by value, far more slowly than it
# looks anything up. `hit` is the index of the key that a turn matches. Texts are fetched in a
# second step, by row number, or DuckDB would unpack those of all turns. Files of early versions
# have no column tokens_estimated or thought: COLUMNS selects what exists, in this order. $SAMPLE is
# the column sample, or 0 where a file has none.
_LOOK_UP = """
    WITH asked AS (
        SELECT unnest(from_json($keys, '[{
            "hit": "INTEGER", "split": "VARCHAR", "wanted": "INTEGER", "decoding": "VARCHAR",
            "question_id": "VARCHAR", "agent": "INTEGER", "round": "INTEGER", "kind": "VARCHAR",
            "sample": "INTEGER"
        }]'), recursive := true)
    ),

    hits AS (
        SELECT hit, turns.rowid AS row_number
        FROM turns
        JOIN asked USING (question_id, split, decoding, agent, round, kind)
        WHERE (wanted IS NULL OR wanted = iteration) AND asked.sample = $SAMPLE
    )

    SELECT hit, iteration, arm, messages::VARCHAR, response, finish_reason, prompt_tokens,
        completion_tokens, latency_ms, COLUMNS('^(error|tokens_estimated|thought)$')
    FROM turns
    JOIN hits ON turns.rowid = row_number
"""
_HAS_SAMPLE = """
    SELECT 1 FROM duckdb_columns() WHERE table_name = 'turns' AND column_name = 'sample'
"""


@dataclass(frozen=True, slots=True)
class TurnKey:
    """The key of a stored turn; `iteration` None: that of any evaluation."""

    split: str
    iteration: int | None
    decoding: str
    question_id: str
    agent: int
    round: int
    kind: str
    sample: int = 0

    def __str__(self) -> str:
        stage = "evaluation" if self.iteration is None else f"training, iteration {self.iteration}"
        number = f"answer {self.sample} for the label" if self.sample else f"the {self.kind}"
        return (
            f"{number} of agent {self.agent} in round {self.round} on question "
            f"{self.question_id!r} ({stage}, {self.decoding})"
        )


@dataclass(frozen=True, slots=True)
class StoredTurn:
    """One stored turn: the conversation that was sent (`messages`, JSON) and the response."""

    iteration: int
    arm: str
    messages: str
    response: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    latency_ms: float
    error: str | None
    tokens_estimated: bool | None = False
    thought: str | None = None

    def completion(self) -> Completion:
        """The stored response. Raises `RequestError` with the stored reason if there was none."""
        if self.error is not None and self.finish_reason == "error":
            raise RequestError(self.error)
        return Completion(
            self.response,
            self.finish_reason,
            self.prompt_tokens,
            self.completion_tokens,
            self.latency_ms,
            self.error,
            bool(self.tokens_estimated),
            self.thought,
        )


class Transcripts:
    """The turns of one run, read from its file when they are asked for.

    Requests that wait at the same time share one query: the table has no index, so every query
    reads it once.
    """

    def __init__(self, database: Path) -> None:
        self._connection = open_read_only(database)
        self._look_up = _write_look_up(self._connection)
        self._waiting: list[tuple[TurnKey, asyncio.Future[list[StoredTurn]]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def find(self, key: TurnKey) -> list[StoredTurn]:
        """All stored turns at `key`."""
        found: asyncio.Future[list[StoredTurn]] = asyncio.get_running_loop().create_future()
        self._waiting.append((key, found))
        # One worker at a time: what is asked while it reads waits for the next query.
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._answer_all())
        return await found

    def config(self) -> dict[str, Any]:
        """The stored run's experiment; empty if the file has none."""
        row = self._connection.cursor().execute("SELECT config FROM runs LIMIT 1").fetchone()
        return dict(json.loads(row[0])) if row else {}

    async def close(self) -> None:
        """Close the file, once the running query has ended."""
        if self._worker is not None:
            await self._worker
        self._connection.close()

    async def _answer_all(self) -> None:
        while self._waiting:
            batch = self._waiting[:_REQUESTS_PER_QUERY]
            del self._waiting[:_REQUESTS_PER_QUERY]
            # In a thread: a scan of a large run takes longer than other tasks should wait.
            try:
                answers = await asyncio.to_thread(self._read, [key for key, _ in batch])
            except Exception as error:
                for _, found in batch:
                    if not found.done():
                        found.set_exception(_translate_error(error))
                continue
            for (_, found), stored in zip(batch, answers, strict=True):
                if not found.done():
                    found.set_result(stored)

    def _read(self, keys: Sequence[TurnKey]) -> list[list[StoredTurn]]:
        found: list[list[StoredTurn]] = [[] for _ in keys]
        with self._connection.cursor() as cursor:
            for hit, *row in cursor.execute(self._look_up, {"keys": _encode_keys(keys)}).fetchall():
                found[hit].append(StoredTurn(*row))
        return found


def open_read_only(database: Path) -> duckdb.DuckDBPyConnection:
    """A read-only connection. Raises `InvalidSettings` if the file is in use or no run's."""
    try:
        connection = duckdb.connect(str(database), read_only=True, config=_SETTINGS)
    except duckdb.Error as error:
        text = str(error)
        if "lock on file" in text or "different configuration" in text:
            raise InvalidSettings(
                f"{database} is being written to; wait until its run has ended, and replay it "
                "into a run of another name"
            ) from error
        raise InvalidSettings(f"{database} is no database of a run: {text}") from error
    # The look-up itself, without rows, shows whether the file has the tables and columns of a run.
    try:
        look_up = _write_look_up(connection)
        connection.execute(f"SELECT 1 FROM ({look_up}), runs LIMIT 0", {"keys": _encode_keys([])})
    except duckdb.Error as error:
        connection.close()
        raise InvalidSettings(f"{database} is a database, but not of a run: {error}") from error
    return connection


def _write_look_up(connection: duckdb.DuckDBPyConnection) -> str:
    found = connection.execute(_HAS_SAMPLE).fetchone()
    return _LOOK_UP.replace("$SAMPLE", "turns.sample" if found else "0")


def _encode_keys(keys: Sequence[TurnKey]) -> str:
    return json.dumps(
        [
            {
                "hit": hit,
                "split": key.split,
                "wanted": key.iteration,
                "decoding": key.decoding,
                "question_id": key.question_id,
                "agent": key.agent,
                "round": key.round,
                "kind": key.kind,
                "sample": key.sample,
            }
            for hit, key in enumerate(keys)
        ]
    )


def _translate_error(error: Exception) -> Exception:
    if isinstance(error, duckdb.Error):
        return RunError(f"the run to be replayed cannot be read any more: {error}")
    return error
