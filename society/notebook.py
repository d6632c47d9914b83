"""What a notebook or a script needs: `society.load`, `society.run` and `society.open_run`.

These are the commands `run` and `sql` as functions: the same checks before anything is spent, the
same folders, and a run that was stopped is resumed by the same call.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Coroutine, Sequence
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
from society.runs.status import Noticeboard, notice_of, together
from society.terminal import live
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
    experiment = resolve(config)
    folder = folders.folder(Path(runs), name)
    overlaps = check_overlap(experiment, folder.database, allow=allow_overlap)
    doctor.before_run(experiment, folder, sys.stderr)
    with folders.start(folder, config, tell) as store:
        store.write(*overlaps)
        if observer is None:
            with live.watch(sys.stderr, config.iterations) as printer:
                _run(folder, experiment, store, printer)
        else:
            _run(folder, experiment, store, observer)
        report.write([store], folder.report)
    return folder


def open_run(name: str, runs: str | Path = "runs") -> Store:
    """The database of a run, for reading; close it, or use it in a `with` block.

    A run in progress can be read too. Raises `ConfigError` where there is no such run.

        with open_run("first") as store:
            print(store.query("FROM accuracy").rows)
    """
    return Store.open(folders.existing(Path(runs), name).database, read_only=True)


def _run(folder: RunFolder, experiment: Experiment, store: Store, observer: Observer) -> None:
    notices = Noticeboard(notice_of(folder), experiment.config.iterations)
    try:
        _finish(run_experiment(folder, experiment, store, together(observer, notices)))
    finally:
        notices.remove()


def _finish(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end, also where an event loop is running, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    # The notebook's own loop cannot be entered a second time: a loop of its own, in a thread.
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    done = threading.Event()

    async def until_done() -> None:
        try:
            await work
        finally:
            done.set()

    future = asyncio.run_coroutine_threadsafe(until_done(), loop)
    try:
        future.result()
    except BaseException:
        # "Interrupt kernel" arrives in this thread: the run ends as at Ctrl-C, and what is in
        # flight is stored before the database is closed.
        future.cancel()
        done.wait()
        raise
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
