"""Commands that start, continue and end runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from society.cli.app import RUNS, ExperimentFile, Name, RunName, Runs, Settings, Skip, app

if TYPE_CHECKING:
    from society.method.experiment import Experiment
    from society.runs.folder import RunFolder
    from store.ledger import Store


@app.command()
def run(
    config: ExperimentFile,
    name: RunName = None,
    settings: Settings = None,
    allow_overlap: Annotated[
        bool,
        typer.Option(
            "--allow-overlap",
            help="Go on though evaluation questions are much like training questions; recorded.",
        ),
    ] = False,
    live: Annotated[
        bool, typer.Option("--live/--no-live", help="Let others read the run while it goes on.")
    ] = True,
    retrain: Annotated[
        bool,
        typer.Option(
            "--retrain", help="First train again the models whose files are missing or changed."
        ),
    ] = False,
    skip: Skip = None,
    runs: Runs = RUNS,
) -> None:
    """Run an experiment, or go on with it where it stopped; all of them, if it has seeds."""
    from society.cli.errors import reported

    with reported() as context:
        from society.checks import doctor, overlap
        from society.cli import sweeping
        from society.method.experiment import load_experiment
        from society.runs import changes
        from society.runs import folder as folders
        from society.runs.status import readable
        from society.sweeps.axes import Source
        from society.terminal.output import tell
        from society.terminal.streams import outlive_readers
        from store.records import utc_now

        source = Source(config, settings or ())
        if source.several():
            _refuse_retrain(config, retrain)
            sweeping.carry_out(context, source, name, None, allow_overlap, live, skip or (), runs)
            return
        experiment = load_experiment(config, settings or ())
        folder = folders.folder(runs, Path(config).stem if name is None else name)
        allowed = overlap.check_overlap(experiment, folder.database, allow=allow_overlap)
        doctor.before_run(experiment, folder, sys.stderr, doctor.chosen(skip or ()))
        context.resumable = True
        outlive_readers()
        context.folder = folder.path
        begun = utc_now()
        store = folders.start(folder, experiment.config, tell)
        try:
            for change in (c for c in store.setting_changes() if c.changed_at >= begun):
                tell(changes.told(change))
            store.write(*allowed)
            with readable(folder, store, tell, live=live):
                _carry_out(folder, experiment, store, retrain=retrain)
        finally:
            store.close()


def _refuse_retrain(config: str, retrain: bool) -> None:
    from society.config.load import ConfigError

    if retrain:
        raise ConfigError(
            f"{config} makes several runs, and --retrain is for one; give the config.toml of the "
            "run's own folder, and its name with --name"
        )


@app.command()
def cancel(name: Name, runs: Runs = RUNS) -> None:
    """Cancel the fine-tuning jobs that a stopped run, or sweep, has left at its providers."""
    from society.cli.errors import reported

    with reported():
        import asyncio

        from society.runs import cancel as cancelling
        from society.sweeps import record
        from society.terminal.output import say

        if asyncio.run(cancelling.cancel_all(record.existing(runs, name), say)):
            raise typer.Exit(1)


@app.command("import")
def import_transcripts(
    file: Annotated[Path, typer.Argument(help="Transcripts, see docs/import.md.")],
    name: Annotated[str, typer.Option(help="Name of the new run.", show_default=False)],
    config: Annotated[
        str | None, typer.Option(help="Experiment (.toml) whose run the new one becomes.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Task that says how answers are read, such as gsm8k.")
    ] = None,
    answers: Annotated[
        Literal["number", "math", "choice", "text"] | None,
        typer.Option(help="Kind of answer, where there is no task."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one setting: datasets.w=0.3."),
    ] = None,
    split: Annotated[
        Literal["train", "eval"], typer.Option(help="Split of what does not name its own.")
    ] = "train",
    iteration: Annotated[
        int | None,
        typer.Option(min=0, help="Iteration of what does not name its own: 1, in eval 0."),
    ] = None,
    skip_incomplete: Annotated[
        bool, typer.Option("--skip-incomplete", help="Leave out debates with missing answers.")
    ] = False,
    runs: Runs = RUNS,
) -> None:
    """Make a run of debates that were held elsewhere."""
    from society.cli.errors import reported

    with reported():
        from society import importing
        from society.importing import overview
        from society.runs import folder as folders

        imported = importing.import_file(
            file,
            folders.folder(runs, name),
            importing.Source(config, task, answers, settings or ()),
            split=split,
            iteration=iteration,
            skip_incomplete=skip_incomplete,
        )
        overview.show(imported, sys.stdout)


def _carry_out(
    folder: RunFolder, experiment: Experiment, store: Store, *, retrain: bool = False
) -> None:
    from evals import report as reports
    from society.costs.spending import spending_of
    from society.method.progress import Note
    from society.runs import runner, summary
    from society.runs.retrain import retrain as train_again
    from society.runs.status import Noticeboard, notice_of, together
    from society.terminal import live, stopping
    from society.terminal.output import say

    iterations = experiment.config.iterations
    notices = Noticeboard(notice_of(folder), iterations)
    try:
        with live.watch(sys.stderr, iterations) as observer:
            listeners = together(observer, notices)

            def tell(text: str) -> None:
                listeners(Note(text))

            if retrain:
                stopping.run(train_again(folder, experiment.config, store, listeners), tell)
            stopping.run(runner.run_experiment(folder, experiment, store, listeners), tell)
    finally:
        notices.remove()
    summary.show(store, sys.stdout)
    if told := str(spending_of(store)):
        say(told.replace("so far", "in all"))
    reports.write([store], folder.report)
    say(f"report: {folder.report}")
