"""Commands that start, resume and end runs and sweeps."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from society.cli.app import (
    RUNS,
    AsJson,
    ExperimentFile,
    Grid,
    Listed,
    Name,
    RunName,
    Runs,
    Seeds,
    Settings,
    Skip,
    app,
)

if TYPE_CHECKING:
    from society.cli.errors import CommandContext
    from society.method.experiment import Experiment
    from society.runs.folder import RunFolder
    from society.sweeps.axes import SweepSource
    from store.ledger import Store
    from store.records import Overlap

Jobs = Annotated[
    int | None,
    typer.Option("--jobs", min=1, help="Runs at a time; default: cores + 1 for embedded:, else 1."),
]

Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print warnings and where the report is, no more.")
]
Retrain = Annotated[
    bool,
    typer.Option("--retrain", help="First retrain the models whose files are missing or changed."),
]


@dataclass(frozen=True, slots=True)
class _Output:
    """What `run` prints: quiet leaves out progress and tables, JSON takes the tables' place."""

    quiet: bool = False
    as_json: bool = False

    def ignore(self, text: str) -> None:
        """Take a line that is not printed."""


# -P keeps the user's folder out of the import path: one called evals or store must not hide ours.
_MEMBER = (sys.executable, "-P", "-m", "society.cli.sweep_member")


@app.command()
def run(
    config: ExperimentFile,
    name: RunName = None,
    settings: Settings = None,
    allow_overlap: Annotated[
        bool,
        typer.Option(
            "--allow-overlap",
            help="Run even if evaluation questions resemble training questions; this is recorded.",
        ),
    ] = False,
    live: Annotated[
        bool, typer.Option("--live/--no-live", help="Let other processes read the running run.")
    ] = True,
    retrain: Retrain = False,
    skip: Skip = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    runs: Runs = RUNS,
) -> None:
    """Run an experiment, or resume it where it stopped; several seeds make several runs."""
    from society.cli.errors import report_errors

    with report_errors() as context:
        from society.checks import doctor, overlap
        from society.method.experiment import load_experiment
        from society.runs import folder as folders
        from society.sweeps.axes import SweepSource
        from society.terminal.streams import outlive_readers

        # A file with seeds or a grid makes a sweep, also without the command `sweep`.
        source = SweepSource(config, settings or ())
        if source.several():
            _refuse_retrain(config, retrain)
            _refuse_single_output(config, quiet=quiet, as_json=as_json)
            run_sweep(context, source, name, None, allow_overlap, live, skip or (), runs)
            return
        experiment = load_experiment(config, settings or ())
        folder = folders.locate_run(runs, Path(config).stem if name is None else name)
        allowed = overlap.check_overlap(experiment, folder.database, allow=allow_overlap)
        doctor.require_ready(experiment, folder, sys.stderr, doctor.parse_skips(skip or ()))
        # All checks of the user's input are above. From here on a failure leaves a run that can be
        # resumed, and the message says how.
        context.resumable = True
        outlive_readers()
        context.folder = folder.path
        shown = _Output(quiet=quiet, as_json=as_json)
        _start_run(folder, experiment, allowed, shown, live=live, retrain=retrain)


def _start_run(
    folder: RunFolder,
    experiment: Experiment,
    allowed: Sequence[Overlap],
    shown: _Output,
    *,
    live: bool,
    retrain: bool,
) -> None:
    """Open the run's store, record what this start changes and allows, and run the experiment."""
    from society.runs import folder as folders
    from society.runs import provenance
    from society.runs.status import allow_readers
    from society.terminal.output import tell
    from store.records import utc_now

    # Changes that this start records are told, not those of earlier starts.
    begun = utc_now()
    store = folders.start_run(folder, experiment.config, tell)
    try:
        for change in (c for c in store.setting_changes() if c.changed_at >= begun):
            tell(provenance.format_setting_change(change))
        store.write(*allowed)
        with allow_readers(folder, store, shown.ignore if shown.quiet else tell, live=live):
            _run_experiment(folder, experiment, store, shown, retrain=retrain)
    finally:
        store.close()


def _refuse_retrain(config: str, retrain: bool) -> None:
    from society.config.load import ConfigError

    if retrain:
        raise ConfigError(
            f"{config} makes several runs, and --retrain works on one; give the config.toml in "
            "that run's folder, and its name with --name"
        )


def _refuse_single_output(config: str, *, quiet: bool, as_json: bool) -> None:
    from society.config.load import ConfigError

    if quiet or as_json:
        raise ConfigError(
            f"{config} makes several runs, and {'--quiet' if quiet else '--json'} works on one; "
            "`society status NAME --json` tells of all of them"
        )


@app.command()
def cancel(name: Name, runs: Runs = RUNS) -> None:
    """Cancel the jobs and delete the deployments that a run or sweep has left at its providers."""
    from society.cli.errors import report_errors

    with report_errors():
        import asyncio

        from society.runs import cancel as cancelling
        from society.sweeps import definition
        from society.terminal.output import say

        if asyncio.run(cancelling.cancel_all(definition.find_runs(runs, name), say)):
            raise typer.Exit(1)


def _run_experiment(
    folder: RunFolder,
    experiment: Experiment,
    store: Store,
    shown: _Output,
    *,
    retrain: bool = False,
) -> None:
    from evals import report as reports
    from society.costs.work import plan_work
    from society.method.progress import Note
    from society.runs import runner
    from society.runs.retrain import retrain as train_again
    from society.runs.status import ProgressFile, combine_observers
    from society.terminal import progress_display, signals

    iterations, plan = experiment.config.iterations, plan_work(experiment)
    progress = ProgressFile(folder.progress, iterations, plan)
    try:
        with progress_display.show_progress(
            sys.stderr, iterations, plan, quiet=shown.quiet
        ) as observer:
            listeners = combine_observers(observer, progress)

            def tell(text: str) -> None:
                listeners(Note(text))

            if retrain:
                signals.run_stoppable(
                    train_again(folder, experiment.config, store, listeners), tell
                )
            signals.run_stoppable(runner.run_experiment(folder, experiment, store, listeners), tell)
    # A progress file that stays behind would make `status` show a process that has ended.
    finally:
        progress.remove()
    if not (shown.quiet or shown.as_json):
        _show_results(store)
    # The report comes last: if it fails, all results are stored and printed already.
    reports.write_report([store], folder.report)
    _show_end(folder, store, shown)


def _show_results(store: Store) -> None:
    from society.costs.budget import read_spending
    from society.runs import summary
    from society.terminal.output import say

    summary.show_summary(store, sys.stdout)
    if spending := str(read_spending(store)):
        say(spending.replace("so far", "in all"))


def _show_end(folder: RunFolder, store: Store, shown: _Output) -> None:
    from society.runs.state import describe_run
    from society.runs.status import name_command
    from society.terminal.output import say
    from society.terminal.table import write_json

    if shown.as_json:
        write_json(describe_run(folder, store), sys.stdout)
        return
    say(f"report: {folder.report}")
    if not shown.quiet:
        say(f"look at it: {name_command('view', folder)}")


@app.command()
def sweep(
    config: ExperimentFile,
    grid: Grid = None,
    listed: Listed = None,
    seeds: Seeds = None,
    jobs: Jobs = None,
    name: RunName = None,
    settings: Settings = None,
    allow_overlap: Annotated[
        bool, typer.Option("--allow-overlap", help="As in run, for every run of the sweep.")
    ] = False,
    live: Annotated[
        bool, typer.Option("--live/--no-live", help="As in run, for every run of the sweep.")
    ] = True,
    skip: Skip = None,
    runs: Runs = RUNS,
) -> None:
    """Run an experiment over a grid or list of settings and over seeds, or resume it."""
    from society.cli.errors import report_errors

    with report_errors() as context:
        from society.sweeps.axes import SweepOptions, SweepSource

        source = SweepSource(config, settings or (), SweepOptions(grid or (), listed, seeds))
        run_sweep(context, source, name, jobs, allow_overlap, live, skip or (), runs)


def run_sweep(
    context: CommandContext,
    source: SweepSource,
    name: str | None,
    jobs: int | None,
    allow_overlap: bool,
    live: bool,
    skip: Sequence[str],
    runs: Path,
) -> None:
    """Run the sweep that `source` describes."""
    from society.checks import doctor
    from society.sweeps import definition, execution
    from society.terminal.output import tell
    from society.terminal.streams import outlive_readers

    chosen = Path(source.experiment).stem if name is None else name
    found = definition.load_sweep(source, runs, chosen)
    skipped = doctor.parse_skips(skip)
    left = execution.prepare_sweep(found, source.experiment, allow_overlap, sys.stderr, skipped)
    context.resumable = True
    context.folder = found.folder.path
    outlive_readers()
    options = ["--allow-overlap"] * allow_overlap + ["--no-live"] * (not live)
    options += [f"--skip={check}" for check in skip]
    failed = execution.run_sweep(found, left, jobs, [*_MEMBER, "run"], options, sys.stderr)
    execution.report_sweep(found, sys.stdout)
    if failed:
        count = f"{len(failed)} of {len(found.members)} runs failed"
        tell(f"society: {count}; the same command runs only what is missing")
        raise typer.Exit(1)
