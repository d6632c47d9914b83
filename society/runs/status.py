"""How far a run is, and what a running process opens to readers.

DuckDB lets no second process open a file that is being written, so a running process keeps a small
record of its progress beside it, `progress.json`.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from pydantic import AwareDatetime, BaseModel

from evals import stored_run
from society.config.load import ConfigError
from society.config.schema import Config
from society.method.progress import (
    Event,
    Note,
    PartFinished,
    PlannedWork,
    StageAdvanced,
    StageStarted,
)
from society.runs import summary
from society.runs.folder import RunFolder
from society.terminal.duration import format_duration
from society.terminal.output import one_line, write_line
from society.terminal.progress_display import Pace, describe_moment
from society.terminal.run_clock import RunClock
from society.terminal.table import write_rows
from store.errors import LiveUnavailable, StoreLocked
from store.ledger import Store


@contextmanager
def allow_readers(
    folder: RunFolder, store: Store, tell: Callable[[str], None], *, live: bool = True
) -> Iterator[None]:
    """Serve `store` to readers while the block runs; `tell` gets lines that say how to read it.

    Without `live`, or if serving is impossible, readers get snapshots only. The run continues.
    """
    from store import snapshots, sql_server

    with ExitStack() as stack:
        # Snapshots need no port and no extension, so readers always have them.
        stack.enter_context(snapshots.answer_snapshot_requests(store))
        if live:
            try:
                stack.enter_context(sql_server.serve_readers(store))
            except (LiveUnavailable, OSError) as error:
                tell(f"while it runs, it can be read in snapshots only: {error}")
            else:
                tell(f"look at it while it runs: {name_command('view', folder)}")
        yield


def name_command(command: str, folder: RunFolder) -> str:
    """A command about a run, as its user types it: society status first --runs elsewhere."""
    runs = folder.path.parent
    where = "" if runs == Path("runs") else f" --runs {shlex.quote(str(runs))}"
    return f"society {command} {folder.name}{where}"


_STAGES = """
    with asked as (
        select task, count(*) as questions from questions where is_extra group by task
    )
    select iteration, case
               when split = 'train' then 'debate'
               when split = 'label' then 'labels'
               when asked.task is null then 'evaluate ' || decoding
               when task like '%@%' then 'curriculum ' || task || ' ' || decoding
               else 'zero-shot ' || task || ' ' || decoding
           end, arm, debates,
           case when split <> 'eval' then $train else coalesce(asked.questions, $eval) end,
           turns, completion_tokens
    from progress left join asked using (task)
    union all
    select iteration, 'finetune', arm, count_if(status in ('succeeded', 'skipped')), count(*),
           null, null
    from jobs group by iteration, arm
    order by 1, 2 desc, 3
"""
# The file is small; whatever else lies in its place must not be read whole.
_MOST_BYTES = 65536
STAGE_COLUMNS = ("iteration", "stage", "arm", "done", "of", "answers", "completion tokens")


class ProgressRecord(BaseModel):
    """What a running process last wrote about itself."""

    process: int
    line: str
    updated_at: AwareDatetime

    @property
    def age_s(self) -> float:
        """Seconds since it was written; 0 if the clock was set back meanwhile."""
        return max(0.0, (datetime.now(UTC) - self.updated_at).total_seconds())


class ProgressFile:
    """An observer that writes progress to `path`, at most every `every_s` seconds."""

    def __init__(
        self,
        path: Path,
        iterations: int,
        plan: Sequence[PlannedWork] = (),
        every_s: float = 1.0,
    ) -> None:
        self._path = path
        self._clock = RunClock(plan)
        self._iterations = iterations
        self._every_s = every_s
        self._pace: Pace | None = None
        self._written = float("-inf")

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        self._clock(event)
        if isinstance(event, Note | PartFinished):
            return
        if isinstance(event, StageStarted):
            self._pace = Pace.start(event, now)
        elif isinstance(event, StageAdvanced) and self._pace is not None:
            self._pace.advance(event, now)
            if now - self._written < self._every_s:
                return
        # The start and end of a stage are written at once, whatever the interval.
        if self._pace is not None:
            self._written = now
            self._write(describe_moment(self._pace, self._iterations, self._clock))

    def remove(self) -> None:
        """Remove the file, since the process ends."""
        self._path.unlink(missing_ok=True)

    def _write(self, line: str) -> None:
        record = ProgressRecord(process=os.getpid(), line=line, updated_at=datetime.now(UTC))
        # Readers see the old record or the new one, never half of one.
        draft = self._path.with_suffix(".part")
        # A full disk must not end the run for the sake of its progress file.
        with suppress(OSError):
            draft.write_text(record.model_dump_json(), encoding="utf-8")
            os.replace(draft, self._path)


def combine_observers(*observers: Callable[[Event], None]) -> Callable[[Event], None]:
    """One observer that passes every event on to all."""

    def tell(event: Event) -> None:
        for observer in observers:
            observer(event)

    return tell


def read_progress(folder: RunFolder) -> ProgressRecord | None:
    """What the process of a run last wrote of itself; None if nothing can be read."""
    try:
        with folder.progress.open("rb") as file:
            return ProgressRecord.model_validate_json(file.read(_MOST_BYTES))
    except (OSError, ValueError):
        return None


def open_unless_held(folder: RunFolder, record: ProgressRecord | None) -> Store | ProgressRecord:
    """The run's database to read; the record while the process that left it holds the file alone.

    `record` is what `read_progress` found. Raises `ConfigError` if there is neither.
    """
    try:
        return Store.open(folder.database, read_only=True)
    # A run without --live holds the file alone; its progress file still tells where it is.
    except StoreLocked:
        if record is None:
            raise ConfigError(
                f"run {folder.name!r} is in use by another process that left no progress.json"
            ) from None
        return record


def show_status(folder: RunFolder, stream: TextIO) -> None:
    """Print how far the run is.

    Raises `ConfigError` if another process holds the run and has left no progress file.
    """
    record = read_progress(folder)
    store = open_unless_held(folder, record)
    if isinstance(store, ProgressRecord):
        _show_progress(folder, store, stream)
        return
    try:
        if not store.running:
            _show_end(folder, store, stream)
        elif record is None:
            write_line(stream, f"run {folder.name}: running")
        else:
            _show_progress(folder, record, stream)
        _show_stored(store, stream)
    finally:
        store.close()


def _show_progress(folder: RunFolder, record: ProgressRecord, stream: TextIO) -> None:
    age = format_duration(record.age_s)
    write_line(stream, f"run {folder.name}: running, process {record.process}")
    write_line(stream, f"{one_line(record.line)}  ({age} ago)")


def _show_end(folder: RunFolder, store: Store, stream: TextIO) -> None:
    run = stored_run.load_run(store)
    if run.finished_at is not None:
        write_line(stream, f"run {folder.name}: finished {run.finished_at:%Y-%m-%d %H:%M} UTC")
    else:
        write_line(stream, f"run {folder.name}: stopped before its end; resume it with")
        write_line(
            stream,
            f"  society run {shlex.quote(str(folder.path / 'config.toml'))} "
            f"--name {shlex.quote(folder.name)} --runs {shlex.quote(str(folder.path.parent))}",
        )


def _show_stored(store: Store, stream: TextIO) -> None:
    if stages := list_stages(store):
        write_rows(STAGE_COLUMNS, stages, "table", stream)
        summary.show_summary(store, stream)
    else:
        write_line(stream, "no stage has begun yet: models are opened and checked first")


def list_stages(store: Store) -> list[tuple[Any, ...]]:
    """One row for every stage that has begun, by `STAGE_COLUMNS`, in the order of the loop."""
    config = Config.from_json(stored_run.load_run(store).config)
    asked = {"train": config.train.questions, "eval": config.evaluation.questions}
    stages = store.rows(_STAGES, asked)
    order = ("labels", "debate", "finetune", "evaluate", "curriculum", "zero-shot")
    # The order in which the loop goes through the stages of an iteration.
    stages.sort(key=lambda row: (row[0], order.index(row[1].split()[0])))
    return stages
