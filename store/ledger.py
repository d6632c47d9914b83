"""`Store`: a run's database. One writer, any number of readers in its process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import duckdb

from store import schema
from store.binding import Params
from store.blank_file import place_blank
from store.bulk_insert import build_records
from store.connection import connect, connect_for_writing, translate_error, yield_to_writer
from store.errors import StoreClosed, StoreError, StoreLocked, StoreMissing
from store.query import Query
from store.reader import Reader, open_reader
from store.records import (
    IN_STAGE,
    Checkpoint,
    Dataset,
    Job,
    Model,
    Overlap,
    Question,
    Run,
    Split,
    StageKey,
    TrainingPoint,
    Turn,
    Verdict,
    Vote,
)
from store.run_starts import RunStart, SettingChange
from store.spending import Batch
from store.sql_client import address_path
from store.tables import TABLES, Record
from store.writer import Work, Writer

R = TypeVar("R")
_FETCH = 2048
_UNSETTLED = "SELECT closed_at IS NULL FROM run_starts ORDER BY started_at DESC LIMIT 1"
_SETTLE = """
UPDATE run_starts SET closed_at = now() AT TIME ZONE 'UTC'
WHERE closed_at IS NULL AND started_at = (SELECT max(started_at) FROM run_starts)
"""
# The debates that hold a failed turn, or whose label one has voted on. Their votes and verdicts go
# too: asked again, the turn may have another answer.
_OF_THEIR_DEBATES = """
(iteration, split = 'eval', arm, decoding, question_id) IN (
    SELECT (iteration, split = 'eval', arm, decoding, question_id)
    FROM turns
    WHERE turn_id IN (SELECT unnest($turns::BIGINT[])) AND failure IS NOT NULL
)
"""
# In this order: votes and verdicts are found through the failed turns, which go last.
_REMOVALS = (
    f"DELETE FROM votes WHERE {_OF_THEIR_DEBATES}",
    f"DELETE FROM verdicts WHERE turn_id IN (SELECT turn_id FROM turns WHERE {_OF_THEIR_DEBATES})",
    "DELETE FROM turns WHERE turn_id IN (SELECT unnest($turns::BIGINT[])) AND failure IS NOT NULL",
)


class Store:
    """A run's database: append records, find them again, ask in SQL.

        with Store.open("runs/demo/run.duckdb", read_only=True) as store:
            for turn in store.turns(StageKey(1, "train", "multiagent")):
                print(turn.agent, turn.answer)
            print(store.query("SELECT * FROM accuracy WHERE split = ?", ["eval"]).rows)

    Safe to use from many tasks and threads of the process that opened it.
    """

    _writing: ClassVar[set[Path]] = set()

    def __init__(
        self,
        path: Path,
        connection: duckdb.DuckDBPyConnection | None,
        *,
        read_only: bool,
        reader: Reader | None = None,
    ) -> None:
        self.path = path
        self.read_only = read_only
        self._connection = connection
        self._reader = reader
        self._cursor_lock = threading.Lock()
        self._open = True
        self.log_is_missing = False
        """Whether the file was copied while a run was writing to it, without the log beside it."""
        self._writer = None if read_only or connection is None else Writer(connection.cursor())

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        read_only: bool = False,
        create: bool = True,
        memory_limit: str | None = None,
    ) -> Self:
        """Open the database at `path`; a writer brings the schema and the views up to date.

            Store.open("run.duckdb")  # the one writer; makes the file where there is none
            Store.open("run.duckdb", create=False)  # raises StoreMissing where there is none
            Store.open("run.duckdb", read_only=True, memory_limit="4GB")

        Where a run is writing to the database, a read-only store sends its queries to that run
        (`store.sql_server`). A writer waits a moment for readers to let go. `memory_limit` bounds
        what DuckDB keeps in memory. Raises `StoreMissing`, `StoreBroken`, `StoreNewer`,
        `StoreOutdated`, `StoreLocked` or `WriteFailed`.
        """
        file = Path(path).resolve()
        if not file.exists() and (read_only or not create):
            raise StoreMissing(f"no database at {file}")
        if file in cls._writing:
            raise StoreLocked(f"this process has {file} open for writing already")
        # Before the file is opened, as DuckDB may fold the log into the file and remove it then.
        had_log = file.with_name(f"{file.name}.wal").exists()
        try:
            if read_only:
                yield_to_writer(file)
                connection = connect(file, read_only=True, memory_limit=memory_limit)
            else:
                place_blank(file)
                connection = connect_for_writing(file, memory_limit)
        except StoreLocked:
            # A run is writing. It leaves its address beside the file if it answers readers.
            if not read_only or not address_path(file).exists():
                raise
            return cls(file, None, read_only=True, reader=open_reader(file))
        try:
            if read_only:
                schema.check_version(connection, str(file), read_only=True)
            else:
                schema.migrate(connection, str(file))
        except duckdb.Error as error:
            connection.close()
            raise translate_error(error, file) from error
        except BaseException:
            connection.close()
            raise
        # DuckDB gives a second connection of one process the same database instead of an error, so
        # the single writer within a process is our own rule.
        if not read_only:
            cls._writing.add(file)
        store = cls(file, connection, read_only=read_only)
        store.log_is_missing = not had_log and store._is_unsettled()
        return store

    async def append(self, *rows: Record) -> None:
        """Store rows; returns once all of them are committed, in one transaction.

        Upserts questions, datasets, jobs, models, runs and training points by their key. Raises
        `DuplicateRecord` for a turn, vote or verdict stored before, `InvalidRecord`, or
        `WriteFailed` when the disk refuses; nothing of the call is stored then. Cancelling the
        wait does not cancel the write.
        """
        if rows:
            await asyncio.wrap_future(self._writing_thread().submit(rows))

    def put(self, *rows: Record) -> None:
        """Queue rows and return at once; a failure shows at the next `append`."""
        if rows:
            self._writing_thread().submit(rows)

    def write(self, *rows: Record) -> None:
        """`append` for callers outside an event loop; blocks until committed."""
        if rows:
            self._writing_thread().submit(rows).result()

    def transact(self, work: Work) -> None:
        """Run `work` with the writing connection in a transaction of its own; blocks.

        For set-based SQL. It must neither commit nor add or remove turns, votes or verdicts.
        """
        self._writing_thread().submit_work(work).result()

    def remove_failed_turns(self, turn_ids: Sequence[int]) -> None:
        """Remove turns whose request failed, with their debates' votes and verdicts; blocks.

        The run can then ask these requests again. A turn that holds an answer stays.
        """

        def work(connection: duckdb.DuckDBPyConnection) -> None:
            for sql in _REMOVALS:
                connection.execute(sql, {"turns": list(turn_ids)})

        self._writing_thread().submit_work(work, removes=True).result()

    def drop_answered_charges(self) -> None:
        """Drop the charges of attempts whose answers are stored turns by now; returns at once."""
        self._writing_thread().submit_work(_drop_answered_charges)

    def mark_charges_lost(self) -> None:
        """Mark attempts as lost that an earlier process has left under way; blocks."""
        self.transact(_mark_charges_lost)

    @property
    def may_read_files(self) -> bool:
        """Whether queries that a user has typed may read files: never through a store."""
        return False

    def record_start(self, start: RunStart) -> None:
        """Record a start of the run, in the file itself and not in its log alone; blocks.

        By this row, a copy of the file without the log shows that something is missing
        (`log_is_missing`).
        """
        self.write(start)

        def checkpoint(connection: duckdb.DuckDBPyConnection) -> None:
            connection.execute("CHECKPOINT")

        self.transact(checkpoint)

    def last_start(self) -> RunStart | None:
        """The latest start of the run, None before there was one."""
        return _first(self._find(RunStart, "ORDER BY started_at DESC LIMIT 1"))

    def query(self, sql: str, params: Params | None = None) -> Query:
        """One reading query whose answer comes as `.rows`, `.arrow()`, `.pandas()`, `.polars()`.

            store.query("SELECT arm, accuracy FROM accuracy WHERE iteration = $k", {"k": 2}).rows
            store.query("FROM label_health").pandas()

        Raises `InvalidQuery` for anything but a single statement that reads.
        """
        return Query(self, sql, params)

    def fetch(
        self,
        take: Callable[[duckdb.DuckDBPyConnection], R],
        sql: str,
        params: Params | None = None,
    ) -> R:
        """What `take` makes of the cursor that has executed a query."""
        if self._reader is not None:
            return self._reader.fetch(take, sql, params)
        with closing(self._cursor()) as cursor:
            # A cursor per query, so that threads do not wait for each other.
            return take(cursor.execute(sql, params))

    def rows(self, sql: str, params: Params | None = None) -> list[tuple[Any, ...]]:
        """All rows of a query over what is committed. Pass values in `params`."""
        return self.fetch(lambda cursor: cursor.fetchall(), sql, params)

    def stream(self, sql: str, params: Params | None = None) -> Iterator[tuple[Any, ...]]:
        """Like `rows`, a few thousand at a time, from one consistent state of the database."""
        if self._reader is not None:
            yield from self._reader.stream(sql, params)
            return
        with closing(self._cursor()) as cursor:
            cursor.execute(sql, params)
            while batch := cursor.fetchmany(_FETCH):
                yield from batch

    def run(self) -> Run | None:
        """The run of this file, None before it was written."""
        return _first(self._find(Run, ""))

    def question(self, question_id: str) -> Question | None:
        """One question."""
        return _first(self._find(Question, "WHERE question_id = ?", [question_id]))

    def questions(self, split: Split, iteration: int | None = None) -> list[Question]:
        """The questions of a split in order; `iteration` picks those made for that pass."""
        return self._find(
            Question,
            "WHERE split = $1 AND ($2 IS NULL OR iteration = $2) ORDER BY position, question_id",
            [split, iteration],
        )

    def turns(self, stage: StageKey) -> Iterator[Turn]:
        """The stored turns of a stage, of all kinds, in the order they were stored."""
        columns = ", ".join(TABLES[Turn].given)
        found = self.stream(
            f"SELECT {columns} FROM turns WHERE {IN_STAGE} ORDER BY created_at, turn_id",
            stage.params,
        )
        # One by one: a stage may hold more turns than fit in memory.
        for row in found:
            yield from build_records(Turn, [row])

    def turns_of_others(self, stage: StageKey, models: Sequence[str]) -> Iterator[Turn]:
        """The turns of the other arms in the same stage that these models answered, in the order
        they were stored. Turns that reuse another turn's response are left out."""
        columns = ", ".join(TABLES[Turn].given)
        found = self.stream(
            f"SELECT {columns} FROM turns WHERE iteration = $iteration AND split = $split "
            "AND arm <> $arm AND decoding = $decoding AND shared_turn_id IS NULL "
            "AND model_id IN (SELECT unnest($models::VARCHAR[])) ORDER BY created_at, turn_id",
            {**stage.params, "models": list(models)},
        )
        for row in found:
            yield from build_records(Turn, [row])

    def votes(self, stage: StageKey) -> list[Vote]:
        """The stored votes of a stage, by question and round."""
        return self._find(Vote, f"WHERE {IN_STAGE} ORDER BY question_id, round", stage.params)

    def verdicts(self, stage: StageKey) -> dict[int, Verdict]:
        """The stored verdicts of a stage by turn_id."""
        found = self._find(
            Verdict,
            f"WHERE turn_id IN (SELECT turn_id FROM turns WHERE {IN_STAGE})",
            stage.params,
        )
        return {verdict.turn_id: verdict for verdict in found}

    def dataset(self, dataset_id: str) -> Dataset | None:
        """One dataset."""
        return _first(self._find(Dataset, "WHERE dataset_id = ?", [dataset_id]))

    def datasets(self, iteration: int | None = None, arm: str | None = None) -> list[Dataset]:
        """Datasets by iteration, arm, agent and role; generators first."""
        return self._find(Dataset, *_select_by(iteration, arm))

    def job(self, job_id: str) -> Job | None:
        """One fine-tuning job by our own name for it."""
        return _first(self._find(Job, "WHERE job_id = ?", [job_id]))

    def jobs(self, iteration: int | None = None, arm: str | None = None) -> list[Job]:
        """Jobs by iteration, arm, agent and role; generators first."""
        return self._find(Job, *_select_by(iteration, arm))

    def model(self, model_id: str) -> Model | None:
        """One model."""
        return _first(self._find(Model, "WHERE model_id = ?", [model_id]))

    def models(self, iteration: int | None = None, arm: str | None = None) -> list[Model]:
        """Models by iteration, arm, agent and role; generators first."""
        return self._find(Model, *_select_by(iteration, arm))

    def checkpoints(self, job_id: str) -> list[Checkpoint]:
        """The models that a job left during training, in order."""
        return self._find(Checkpoint, "WHERE job_id = ? ORDER BY step", [job_id])

    def setting_changes(self) -> list[SettingChange]:
        """The settings that later starts of the run changed, oldest first."""
        return self._find(SettingChange, "ORDER BY changed_at, key", [])

    def batches(self, provider: str) -> list[Batch]:
        """The batches at a provider, oldest first."""
        return self._find(Batch, "WHERE provider = ? ORDER BY created_at, digest", [provider])

    def overlaps(self) -> list[Overlap]:
        """The pairs of training and evaluation question that the user has allowed."""
        return self._find(Overlap, "ORDER BY train_question_id, eval_question_id")

    def training_points(self, job_id: str) -> list[TrainingPoint]:
        """The optimizer steps of a job, in order."""
        return self._find(TrainingPoint, "WHERE job_id = ? ORDER BY step", [job_id])

    def _find(self, record: type[R], rest: str, params: Params = ()) -> list[R]:
        table = TABLES[record]
        found = self.rows(f"SELECT {', '.join(table.given)} FROM {table.name} {rest}", params)
        return build_records(record, found)

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection of its own for one reader; the caller closes it and writes nothing.

        Raises `StoreLocked` where a running process answers, which takes whole queries only.
        """
        return self._cursor()

    @property
    def running(self) -> bool:
        """Whether a running process that writes to the file answers, and not the file itself."""
        return self._reader is not None and self._reader.running

    def close(self) -> None:
        """Commit what is queued, fold the log into the file and close it. Closing twice is fine."""
        if not self._open:
            return
        # First, so that readers get no new cursor while the writer finishes.
        self._open = False
        try:
            if self._writer is not None:
                self._writer.close()
            if self._reader is not None:
                self._reader.close()
            if self._connection is not None:
                # A disk that is full must not keep the file from being closed.
                with suppress(duckdb.Error):
                    if not self.read_only and self._is_unsettled():
                        self._connection.execute(_SETTLE)
                    self._connection.close()
                    if not self.read_only:
                        schema.note_left(str(self.path))
        finally:
            if not self.read_only:
                self._writing.discard(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _is_unsettled(self) -> bool:
        """Whether the file was not closed since the latest start."""
        assert self._connection is not None
        return self._connection.execute(_UNSETTLED).fetchone() == (True,)

    def _cursor(self) -> duckdb.DuckDBPyConnection:
        with self._cursor_lock:
            if not self._open:
                raise StoreClosed(f"{self.path} was closed")
            if self._connection is None:
                raise StoreLocked(f"a run is writing to {self.path}; wait for its end")
            return self._connection.cursor()

    def _writing_thread(self) -> Writer:
        if self._writer is None:
            raise StoreError(f"{self.path} was opened read-only")
        return self._writer


def _drop_answered_charges(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute(
        "DELETE FROM charges WHERE state = 'sent' AND turn_id IN (SELECT turn_id FROM turns)"
    )


def _mark_charges_lost(connection: duckdb.DuckDBPyConnection) -> None:
    _drop_answered_charges(connection)
    connection.execute("UPDATE charges SET state = 'lost' WHERE state = 'sent'")


def _select_by(iteration: int | None, arm: str | None) -> tuple[str, list[object]]:
    # 'generator' sorts after 'critic', so DESC puts the generators first.
    rest = (
        "WHERE ($1 IS NULL OR iteration = $1) AND ($2 IS NULL OR arm = $2) "
        "ORDER BY iteration, arm, agent, role DESC, created_at"
    )
    return rest, [iteration, arm]


def _first(found: Sequence[R]) -> R | None:
    return found[0] if found else None
