"""Commands that look at a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from society.cli.app import RUNS, Name, Runs, app


@app.command()
def status(name: Name, runs: Runs = RUNS) -> None:
    """Show how far a run is, or a sweep with all its runs; also while they are running."""
    from society.cli.errors import reported

    with reported():
        from society.runs import folder as folders
        from society.runs.status import show
        from society.sweeps import overview, record

        sweep = folders.folder(runs, name)
        if (found := record.read(sweep)) is not None:
            overview.show_status(sweep, found, sys.stdout)
            return
        show(folders.existing(runs, name), sys.stdout)


@app.command()
def report(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...",
            help="Names of runs or sweeps; runs that differ only in their seed count as one.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where to write it: a page (.html), or a folder for the page and all figures and "
            "tables as files; default: report.html in the folder of the first name."
        ),
    ] = None,
    paper: Annotated[
        bool, typer.Option("--paper/--no-paper", help="Quote the paper's numbers beside them.")
    ] = True,
    runs: Runs = RUNS,
) -> None:
    """Write the report of one or more runs: one page that needs no network."""
    from society.cli.errors import reported

    with reported():
        from contextlib import ExitStack

        from evals import report as reports
        from society.config.load import ConfigError
        from society.runs import folder as folders
        from society.sweeps import record
        from society.terminal.output import say
        from store.ledger import Store

        found = [folder for name in names for folder in record.existing(runs, name)]
        called = [folder.name for folder in found]
        if twice := sorted({name for name in called if called.count(name) > 1}):
            raise ConfigError(f"run {twice[0]!r} is named twice; name every run once")
        target = out or folders.folder(runs, names[0]).report
        with ExitStack() as opened:
            stores = [
                opened.enter_context(Store.open(folder.database, read_only=True))
                for folder in found
            ]
            reports.write(stores, target, quote=paper)
        say(str(target))


@app.command()
def ask(
    name: Name,
    question: Annotated[str, typer.Argument(help='Such as "3+4*5+6-7*8".', show_default=False)],
    runs: Runs = RUNS,
) -> None:
    """Let a run's newest society debate your question, turn by turn."""
    from society.cli.errors import reported

    with reported() as context:
        from society.runs import folder as folders
        from society.runs.ask import open_store, show

        folder = folders.existing(runs, name)
        with open_store(folder) as store:
            context.folder = folder.path
            show(folder, store, question, sys.stdout)
