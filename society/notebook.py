"""What a notebook or a script needs: `society.load_config`, `society.run`, `society.load`.

These are the commands `run`, `ask` and `sql` as functions: the same checks before anything is
spent, the same folders, and a run that was stopped is resumed by the same call.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from evals import report
from society.checks import doctor
from society.checks.overlap import check_overlap
from society.config import load as experiments
from society.config.schema import Config
from society.costs.work import plan_work
from society.method.experiment import Experiment, resolve
from society.method.progress import Observer
from society.runs import folder as folders
from society.runs.apart import Stop, call_apart
from society.runs.folder import RunFolder
from society.runs.opened import OpenRun
from society.runs.runner import run_experiment
from society.runs.status import ProgressFile, combine_observers
from society.terminal import progress_display
from society.terminal.output import tell
from store.ledger import Store


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read an experiment file, or a packaged experiment by its name.

    `overrides` change single keys, as `--set` does. Raises `ConfigError`, which names every wrong
    key with its value and the remedy.

    >>> load_config("demo", ["society.agents=5"]).society.agents
    5
    """
    return experiments.load_config(str(source), overrides)


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

        config = load_config("demo", ["iterations=1"])
        print(run(config, "first").report)
    """

    def carry_out(stop: Stop) -> RunFolder:
        # The order of the command line: everything that can be refused before anything is written.
        experiment = resolve(config)
        folder = folders.locate_run(Path(runs), name)
        overlaps = check_overlap(experiment, folder.database, allow=allow_overlap)
        doctor.require_ready(experiment, folder, sys.stderr)
        with (
            folders.start_run(folder, experiment.config, tell) as store,
            _watch(experiment, observer) as watcher,
        ):
            store.write(*overlaps)
            asyncio.run(stop.guard(_run(folder, experiment, store, watcher)))
            report.write_report([store], folder.report)
        return folder

    return call_apart(carry_out)


def open_run(run: str | Path, runs: str | Path = "runs") -> OpenRun:
    """A run, by its name in the folder `runs` or by its own folder, open for reading.

    Close it, or use it in a `with` block. A run in progress can be read too. Raises `ConfigError`
    where there is no such run.

        with open_run("first") as run:
            print(run.query("FROM accuracy").frame())
            print(run.ask("3+4*5+6-7*8").answer)
    """
    folder = Path(run)
    if isinstance(run, Path) or folder.name != run:
        # Resolved, since "." has no name.
        return OpenRun(folders.find_run(folder.resolve().parent, folder.resolve().name))
    return OpenRun(folders.find_run(Path(runs), run))


load = open_run
"""The short name of `open_run`."""


@contextmanager
def _watch(experiment: Experiment, observer: Observer | None) -> Iterator[Observer]:
    if observer is not None:
        yield observer
        return
    iterations, plan = experiment.config.iterations, plan_work(experiment)
    with progress_display.show_progress(sys.stderr, iterations, plan) as printer:
        yield printer


async def _run(folder: RunFolder, experiment: Experiment, store: Store, observer: Observer) -> None:
    iterations, plan = experiment.config.iterations, plan_work(experiment)
    progress = ProgressFile(folder.progress, iterations, plan)
    try:
        await run_experiment(folder, experiment, store, combine_observers(observer, progress))
    finally:
        progress.remove()
