"""Opening the runs that `society sql` queries: one or several, running or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from society.config.load import ConfigError
from society.runs.folder import RunFolder
from store.binding import Params
from store.errors import StoreLocked
from store.query import Query
from store.reader import open_reader
from store.snapshots import request_snapshot
from store.union import RunUnion


class Session(Protocol):
    """Read-only queries that reach nothing but the runs."""

    def query(self, sql: str, params: Params | None = None) -> Query:
        """A query of the user's."""
        ...

    def rows(self, sql: str, params: Params | None = None) -> list[tuple[Any, ...]]:
        """All rows of a query of our own."""
        ...

    def write_parquet(self, sql: str, path: Path) -> int:
        """Write the answer to a query into a file; return the number of rows."""
        ...


@contextmanager
def open_session(
    runs: Sequence[RunFolder],
    tell: Callable[[str], None],
    *,
    snapshots: bool = False,
    files: bool = False,
    may_write: Path | None = None,
) -> Iterator[Session]:
    """A session over the runs; several runs are attached by name and united in views.

    A single running run answers itself. With `snapshots`, with `files`, or among several runs it is
    asked for a snapshot, and `tell` gets a message. Raises `ConfigError` for a repeated name.

        with open_session([find_run(Path("runs"), "demo")], tell) as session:
            session.rows("select * from accuracy")
    """
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise ConfigError(f"a run is named twice: {', '.join(names)}")
    with ExitStack() as stack:
        stills = snapshots or files or len(runs) > 1
        places = {run.name: _locate_database(stack, run, tell, stills=stills) for run in runs}
        if len(places) > 1:
            yield stack.enter_context(RunUnion(places, files=files, may_write=may_write))
            return
        [place] = places.values()
        # Sealed: a query cannot reach other files unless the user allows it.
        yield stack.enter_context(open_reader(place, sealed=True, files=files, may_write=may_write))


def _locate_database(
    stack: ExitStack, run: RunFolder, tell: Callable[[str], None], *, stills: bool
) -> Path:
    """The run's database; with `stills`, a snapshot of it if the run is running."""
    # A running run answers through its server, which open_reader finds by itself.
    if not stills:
        return run.database
    try:
        with open_reader(run.database) as reader:
            if not reader.running:
                return run.database
    except StoreLocked:
        pass
    copy = stack.enter_context(request_snapshot(run.database))
    tell(f"run {run.name} is running; this is a snapshot of it")
    return copy
