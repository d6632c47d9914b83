"""The command that shows runs in a browser."""

from __future__ import annotations

from typing import Annotated

import typer

from society.cli.app import RUNS, Runs, app


@app.command()
def view(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Runs to show; default: all.", show_default=False),
    ] = None,
    runs: Runs = RUNS,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8765,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but a loopback address requires a token.")
    ] = "127.0.0.1",
    token: Annotated[
        bool, typer.Option("--token", help="Require a token on a loopback address too.")
    ] = False,
    ask: Annotated[
        bool | None,
        typer.Option(
            "--ask/--no-ask",
            help="Let visitors ask the runs' societies; default: on a loopback address only.",
            show_default=False,
        ),
    ] = None,
    ask_budget: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="USD",
            help="What questions to a run that costs money may cost; default: it is not asked.",
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(metavar="NEW", help="Keep what the one named run is asked in this run."),
    ] = None,
) -> None:
    """Show runs in a browser, also while they run, and ask their societies there."""
    from society.cli.errors import report_errors

    with report_errors():
        from providers import extras

        # Ask for the extra before importing its packages, so that the message names the remedy.
        extras.require_extra("view", "the pages of society view")
        from society.terminal.output import say
        from society.view.ask_record import plan_record
        from society.view.catalog import Library
        from society.view.web import serve_pages

        library = Library(runs, names or ())
        serve_pages(
            library,
            host,
            port,
            ask_token=token,
            say=say,
            asks=ask,
            budget_usd=ask_budget,
            record=None if store is None else plan_record(library, store),
        )
