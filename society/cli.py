"""The command `society`.

Exit status: 0 done, 1 failed, 2 wrong use or wrong config, 130 stopped with Ctrl-C.
Whatever is heavy is imported inside the command that needs it, so that help is instant.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from society.config import Config
    from society.runs import RunFolder
    from store.ledger import Store

app = typer.Typer(
    name="society",
    help="Multiagent finetuning: language models that debate, vote and learn from their votes.",
    epilog="Start with: society run demo",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(help="Name of the run.", show_default=False)]
Runs = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Folder that holds the runs.")]
RUNS = Path("runs")


def main() -> None:
    """Entry point of the command."""
    app()


@app.command()
def run(
    config: Annotated[
        str,
        typer.Argument(help="Experiment file (.toml), or the name of a packaged one: demo."),
    ],
    name: Annotated[
        str | None, typer.Option(help="Name of the run; default: the experiment's.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one setting: society.agents=5."),
    ] = None,
    allow_overlap: Annotated[
        bool,
        typer.Option(
            "--allow-overlap",
            help="Go on though evaluation questions are much like training questions; recorded.",
        ),
    ] = False,
    runs: Runs = RUNS,
) -> None:
    """Run an experiment, or go on with it where it stopped."""
    from society.failures import reported

    with reported() as context:
        from society import config as experiments
        from society import doctor, leakage
        from society import runs as folders

        experiment = experiments.load(config, settings or ())
        folder = folders.folder(runs, Path(config).stem if name is None else name)
        allowed = leakage.check(experiment, folder.database, allow=allow_overlap)
        doctor.before_run(experiment, folder, sys.stderr)
        context.resumable = True
        context.folder = folder.path
        store = folders.start(folder, experiment)
        try:
            store.write(*allowed)
            _carry_out(folder, experiment, store)
        finally:
            store.close()


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
    from society.failures import reported

    with reported():
        from society import importing
        from society import runs as folders
        from society.importing import overview

        imported = importing.import_file(
            file,
            folders.folder(runs, name),
            importing.Source(config, task, answers, settings or ()),
            split=split,
            iteration=iteration,
            skip_incomplete=skip_incomplete,
        )
        overview.show(imported, sys.stdout)


@app.command("doctor")
def examine(
    config: Annotated[
        str, typer.Argument(help="Experiment file (.toml), or the name of a packaged one: demo.")
    ],
    name: Annotated[
        str | None, typer.Option(help="Name of the run; default: the experiment's.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one setting: society.agents=5."),
    ] = None,
    allow_overlap: Annotated[
        bool,
        typer.Option("--allow-overlap", help="Take alike questions for allowed, as in run."),
    ] = False,
    runs: Runs = RUNS,
) -> None:
    """Look whether an experiment can be run: keys, models, endings, disk. Spends nothing."""
    from society.failures import reported

    with reported():
        from society import doctor
        from society import runs as folders

        folder = folders.folder(runs, Path(config).stem if name is None else name)
        found = doctor.examine_file(config, settings or (), folder, allow_overlap=allow_overlap)
        doctor.show(found, sys.stdout)
        if any(finding.level == "error" for finding in found):
            raise typer.Exit(2)


@app.command()
def cancel(name: Name, runs: Runs = RUNS) -> None:
    """Cancel the fine-tuning jobs that a stopped run has left at its providers."""
    from society.failures import reported

    with reported():
        import asyncio

        from society import cancel as cancelling
        from society import runs as folders
        from store.ledger import Store

        folder = folders.existing(runs, name)
        with Store.open(folder.database, create=False) as store:
            failures = asyncio.run(cancelling.cancel(folder, store, typer.echo))
        if failures:
            raise typer.Exit(1)


@app.command()
def cost(
    config: Annotated[
        str, typer.Argument(help="Experiment file (.toml), or the name of a packaged one: demo.")
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one setting: society.agents=5."),
    ] = None,
    answer_tokens: Annotated[
        int | None, typer.Option(min=1, help="How many tokens an answer usually takes.")
    ] = None,
    summary_tokens: Annotated[
        int | None, typer.Option(min=1, help="How many tokens a summary usually takes.")
    ] = None,
    output: Annotated[
        Literal["table", "csv", "json"], typer.Option("--format", help="How rows are written.")
    ] = "table",
) -> None:
    """Price a whole experiment before its first call; needs no key and spends nothing."""
    from society.failures import reported

    with reported():
        from society import config as experiments
        from society.costing import overview
        from society.costing.estimate import estimate

        experiment = experiments.load(config, settings or ())
        found = estimate(experiment, answer_tokens, summary_tokens)
        overview.show(found, experiment, output, sys.stdout)


@app.command()
def status(name: Name, runs: Runs = RUNS) -> None:
    """Show how far a run is, also while it is running."""
    from society.failures import reported

    with reported():
        from society import runs as folders
        from society.status import show

        show(folders.existing(runs, name), sys.stdout)


@app.command()
def report(
    name: Name,
    out: Annotated[
        Path | None, typer.Option(help="Where to write it; default: report.html in the run.")
    ] = None,
    runs: Runs = RUNS,
) -> None:
    """Write a run's report: one HTML file."""
    from society.failures import reported

    with reported():
        from evals import report as reports
        from society import runs as folders
        from store.ledger import Store

        folder = folders.existing(runs, name)
        store = Store.open(folder.database, read_only=True)
        try:
            reports.write(store, out or folder.report)
        finally:
            store.close()
        typer.echo(str(out or folder.report))


@app.command()
def sql(
    name: Name,
    query: Annotated[str, typer.Argument(help='Such as "select * from accuracy".')],
    output: Annotated[
        Literal["table", "csv", "json"], typer.Option("--format", help="How rows are written.")
    ] = "table",
    runs: Runs = RUNS,
) -> None:
    """Query a run's database, read-only. Tables: see docs/schema.md."""
    from society.failures import reported

    with reported():
        from society import runs as folders
        from society.rows import write
        from store import query as reading

        folder = folders.existing(runs, name)
        found = reading.query(folder.database, query)
        write(found.columns, found.rows, output, sys.stdout)


@app.command()
def ask(
    name: Name,
    question: Annotated[str, typer.Argument(help='Such as "3+4*5+6-7*8".', show_default=False)],
    runs: Runs = RUNS,
) -> None:
    """Let a run's newest society debate your question, turn by turn."""
    from society.failures import reported

    with reported():
        from society import runs as folders
        from society.ask import show
        from store.ledger import Store

        folder = folders.existing(runs, name)
        store = Store.open(folder.database, read_only=True)
        try:
            show(folder, store, question, sys.stdout)
        finally:
            store.close()


def _carry_out(folder: RunFolder, experiment: Config, store: Store) -> None:
    import asyncio

    from evals import report as reports
    from society import iterate, live, summary
    from society.status import Noticeboard, notice_of, together

    notices = Noticeboard(notice_of(folder), experiment.iterations)
    try:
        with live.watch(sys.stderr, experiment.iterations) as observer:
            asyncio.run(iterate.run(folder, experiment, store, together(observer, notices)))
    finally:
        notices.remove()
    summary.show(store, sys.stdout)
    reports.write(store, folder.report)
    typer.echo(f"report: {folder.report}")
