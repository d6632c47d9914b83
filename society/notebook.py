"""What a notebook or a script needs: `society.load`, `society.run` and `society.open_run`.

These are the commands `run` and `sql` as functions: the same checks before anything is spent, the
same folders, and a run that was stopped is resumed by the same call.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evals import report
from society.checks import doctor
from society.checks.overlap import check_overlap
from society.config.load import load_config
from society.config.schema import Config
from society.method.experiment import Experiment, resolve
from society.method.progress import Observer
from society.runs import folder as folders
from society.runs.folder import RunFolder
from society.runs.runner import run_experiment
from society.runs.status import ProgressFile, combine_observers
from society.terminal import progress_display
from society.terminal.output import tell
from store.ledger import Store


def load(source: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read an experiment file, or a packaged experiment by its name.

    `overrides` change single keys, as `--set` does. Raises `ConfigError`, which names every wrong
    key with its value and the remedy.

    >>> load("demo", ["society.agents=5"]).society.agents
    5
    """
    return load_config(str(source), overrides)


def run(
    config: Config,
    name: str,
    runs: str | Path = "runs",
    *,
    allow_overlap: bool = False,
    observer: Observer | None = None,
) -> RunFolder:
    """Run an experiment to its end, as the run `name` in the folder `runs`.

    A run that is there already is resumed, with this config; a finished one is left as it is.
    `allow_overlap` accepts evaluation questions that are much like training questions. `observer`
    gets every event of the run; by default progress is printed on stderr. Raises `ConfigError`
    before anything is spent, and afterwards what stops the run; calling again resumes it.

        config = load("demo", ["iterations=1"])
        print(run(config, "first").report)
    """
    stop = _Stop()

    def carry_out() -> RunFolder:
        # The order of the command line: everything that can be refused before anything is written.
        experiment = resolve(config)
        folder = folders.locate_run(Path(runs), name)
        overlaps = check_overlap(experiment, folder.database, allow=allow_overlap)
        doctor.require_ready(experiment, folder, sys.stderr)
        with folders.start_run(folder, config, tell) as store, _watch(config, observer) as watcher:
            store.write(*overlaps)
            asyncio.run(stop.guard(_run(folder, experiment, store, watcher)))
            report.write_report([store], folder.report)
        return folder

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return carry_out()
    # A notebook's loop runs in this thread and cannot be entered twice: the run gets a thread.
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(carry_out)
        try:
            return future.result()
        except KeyboardInterrupt:
            # "Interrupt kernel" arrives in this thread only, and the run has to stop by itself.
            stop.now()
            raise


def open_run(name: str, runs: str | Path = "runs") -> Store:
    """The database of a run, for reading; close it, or use it in a `with` block.

    A run in progress can be read too. Raises `ConfigError` where there is no such run.

        with open_run("first") as store:
            print(store.query("FROM accuracy").rows)
    """
    return Store.open(folders.find_run(Path(runs), name).database, read_only=True)


@contextmanager
def _watch(config: Config, observer: Observer | None) -> Iterator[Observer]:
    if observer is not None:
        yield observer
        return
    with progress_display.show_progress(sys.stderr, config.iterations) as printer:
        yield printer


async def _run(folder: RunFolder, experiment: Experiment, store: Store, observer: Observer) -> None:
    progress = ProgressFile(folder.progress, experiment.config.iterations)
    try:
        await run_experiment(folder, experiment, store, combine_observers(observer, progress))
    finally:
        progress.remove()


class _Stop:
    """Stops work in another thread's event loop; what is in flight is stored before it ends."""

    def __init__(self) -> None:
        self._cancel: Callable[[], object] = lambda: None

    async def guard(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()
        self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        await task

    def now(self) -> None:
        self._cancel()
