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
) -> None:
    """Show runs in a browser: progress, debates, datasets, models; also while they run."""
    from society.cli.errors import report_errors

    with report_errors():
        from providers import extras

        # Ask for the extra before importing its packages, so that the message names the remedy.
        extras.require_extra("view", "the pages of society view")
        from society.terminal.output import say
        from society.view.catalog import Library
        from society.view.web import serve_pages

        library = Library(runs, names or ())
        serve_pages(library, host, port, ask_token=token, say=say)
