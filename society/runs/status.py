"""While a run is going on, others may read it: what `society run` opens, and what it says."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from pydantic import AwareDatetime, BaseModel

from evals import stored_run
from society.config.load import ConfigError
from society.config.schema import Config
from society.method.progress import Event, Note, StageAdvanced, StageStarted
from society.runs import summary
from society.runs.folder import RunFolder
from society.terminal.live import Pace, duration, title
from society.terminal.output import one_line, write_line
from society.terminal.table import write
from store.errors import LiveUnavailable, StoreLocked
from store.ledger import Store


@contextmanager
def readable(
    folder: RunFolder, store: Store, tell: Callable[[str], None], *, live: bool = True
) -> Iterator[None]:
    """Serve `store` to readers while the block runs; `tell` gets a few lines on how to ask.

    Where that is impossible, and without `live`, there are snapshots only. The run goes on.
    """
    from store import snapshots, sql_server

    with ExitStack() as stack:
        stack.enter_context(snapshots.answer_snapshot_requests(store))
        if live:
            try:
                address = stack.enter_context(sql_server.serve_readers(store))
            except (LiveUnavailable, OSError) as error:
                tell(f"readable in snapshots only while it runs: {error}")
            else:
                runs = folder.path.parent
                where = "" if runs == Path("runs") else f" --runs {shlex.quote(str(runs))}"
                tell(f"read it while it runs: society sql {folder.name}{where}")
                tell(f"or with other tools, as CSV: {sql_server.format_curl_command(address)}")
        yield


# MERGED DOCSTRING of society.runs.status:
# """How far a run is: from its database, or from its notice while a process is writing to that.
#
# DuckDB lets nobody else into a file that is being written, so a running process keeps a small
# notice beside it, `progress.json`.
# """

_STAGES = """
    with asked as (
        select task, count(*) as questions from questions where zero_shot group by task
    )
    select iteration, case
               when split = 'train' then 'debate'
               when asked.task is null then 'evaluate ' || decoding
               when task like '%@%' then 'curriculum ' || task || ' ' || decoding
               else 'zero-shot ' || task || ' ' || decoding
           end, arm, debates,
           case when split = 'train' then $train else coalesce(asked.questions, $eval) end,
           turns, completion_tokens
    from progress left join asked using (task)
    union all
    select iteration, 'finetune', arm, count_if(status in ('succeeded', 'skipped')), count(*),
           null, null
    from jobs group by iteration, arm
    order by 1, 2 desc, 3
"""
_LONGEST_NOTICE = 65536
_COLUMNS = ("iteration", "stage", "arm", "done", "of", "answers", "completion tokens")


class Notice(BaseModel):
    """What a running process last wrote about itself."""

    process: int
    line: str
    updated_at: AwareDatetime


class Noticeboard:
    """An observer that keeps the notice in `path` no older than `every_s` seconds of progress."""

    def __init__(self, path: Path, iterations: int, every_s: float = 1.0) -> None:
        self._path = path
        self._iterations = iterations
        self._every_s = every_s
        self._pace: Pace | None = None
        self._written = float("-inf")

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        if isinstance(event, Note):
            return
        if isinstance(event, StageStarted):
            self._pace = Pace.of(event, now)
        elif isinstance(event, StageAdvanced) and self._pace is not None:
            self._pace.advance(event, now)
            if now - self._written < self._every_s:
                return
        if self._pace is not None:
            self._written = now
            self._write(f"{title(self._pace.stage, self._iterations)}: {self._pace.numbers}")

    def remove(self) -> None:
        """Take the notice down: the process ends."""
        self._path.unlink(missing_ok=True)

    def _write(self, line: str) -> None:
        notice = Notice(process=os.getpid(), line=line, updated_at=datetime.now(UTC))
        draft = self._path.with_suffix(".part")
        # The run itself does not depend on its notice.
        with suppress(OSError):
            draft.write_text(notice.model_dump_json(), encoding="utf-8")
            os.replace(draft, self._path)


def together(*observers: Callable[[Event], None]) -> Callable[[Event], None]:
    """One observer that passes every event on to all."""

    def tell(event: Event) -> None:
        for observer in observers:
            observer(event)

    return tell


def notice_of(folder: RunFolder) -> Path:
    """Where a run's notice is."""
    return folder.path / "progress.json"


def read_notice(folder: RunFolder) -> Notice | None:
    """What the process of a run says of itself; None where there is nothing that can be read."""
    try:
        with notice_of(folder).open("rb") as file:
            return Notice.model_validate_json(file.read(_LONGEST_NOTICE))
    except (OSError, ValueError):
        return None


def age_of(notice: Notice) -> float:
    """Seconds since it was written; none where a clock was set back."""
    return max(0.0, (datetime.now(UTC) - notice.updated_at).total_seconds())


def show(folder: RunFolder, stream: TextIO) -> None:
    """Print how far the run is. Raises `ConfigError` where a process that left no notice has it."""
    notice = read_notice(folder)
    try:
        store = Store.open(folder.database, read_only=True)
    except StoreLocked:
        if notice is None:
            raise ConfigError(
                f"run {folder.name!r} is in use by another process, "
                "which tells nothing about itself"
            ) from None
        _show_notice(folder, notice, stream)
        return
    try:
        if not store.running:
            _show_end(folder, store, stream)
        elif notice is None:
            write_line(stream, f"run {folder.name}: running")
        else:
            _show_notice(folder, notice, stream)
        _show_stored(store, stream)
    finally:
        store.close()


def _show_notice(folder: RunFolder, notice: Notice, stream: TextIO) -> None:
    age = duration(age_of(notice))
    write_line(stream, f"run {folder.name}: running, process {notice.process}")
    write_line(stream, f"{one_line(notice.line)}  ({age} ago)")


def _show_end(folder: RunFolder, store: Store, stream: TextIO) -> None:
    run = stored_run.load_run(store)
    if run.finished_at is not None:
        write_line(stream, f"run {folder.name}: finished {run.finished_at:%Y-%m-%d %H:%M} UTC")
    else:
        write_line(stream, f"run {folder.name}: stopped before its end; go on with")
        write_line(
            stream,
            f"  society run {shlex.quote(str(folder.path / 'config.toml'))} "
            f"--name {shlex.quote(folder.name)} --runs {shlex.quote(str(folder.path.parent))}",
        )


def _show_stored(store: Store, stream: TextIO) -> None:
    config = Config.from_json(stored_run.load_run(store).config)
    asked = {"train": config.train.questions, "eval": config.evaluation.questions}
    stages = store.rows(_STAGES, asked)
    order = ("debate", "finetune", "evaluate", "curriculum", "zero-shot")
    stages.sort(key=lambda row: (row[0], order.index(row[1].split()[0])))
    write(_COLUMNS, stages, "table", stream)
    summary.show(store, stream)
