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
    from society.failures import reported

    with reported():
        from society import runs as folders
        from society.status import show
        from society.sweeps import overview, record

        sweep = folders.folder(runs, name)
        if (found := record.read(sweep)) is not None:
            overview.show_status(sweep, found, sys.stdout)
            return
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
