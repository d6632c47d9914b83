"""The command that serves a run's society through OpenAI's API."""

from __future__ import annotations

from typing import Annotated

import typer

from society.cli.app import RUNS, Name, Runs, app

Iteration = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Its society after this iteration, 0: untuned; default: the chosen one.",
    ),
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")]
Host = Annotated[
    str, typer.Option(help="Address to listen on; any but a loopback address requires a key.")
]
Key = Annotated[
    str | None,
    typer.Option(
        # An environment variable, because everyone on a machine can list the words of a command.
        envvar="SOCIETY_KEY",
        help="Key that clients must send; default: none on a loopback address, else a new one.",
    ),
]
Concurrent = Annotated[int, typer.Option(min=1, help="Requests that are debated at a time.")]
Queue = Annotated[
    int, typer.Option(min=0, help="Requests that may wait; further ones are sent away.")
]
Deadline = Annotated[
    float, typer.Option(min=0.1, help="Seconds that a request may take, waiting included.")
]
Tokens = Annotated[
    int | None,
    typer.Option(min=1, help="Most tokens that one request may write, over all its calls."),
]
BudgetUsd = Annotated[
    float | None,
    typer.Option(min=0.0, help="USD that all requests together may cost; default: no limit."),
]
Grace = Annotated[
    float, typer.Option(min=0.0, help="Seconds that answers may still take at a stop.")
]
StoreName = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Store the debates in a run of this name, for sql and view."),
]
Progress = Annotated[
    bool,
    typer.Option(
        "--progress/--no-progress",
        help="Send the debate beside the answer, as reasoning; a request may say otherwise.",
    ),
]


@app.command()
def serve(
    name: Name,
    iteration: Iteration = None,
    port: Port = 8766,
    host: Host = "127.0.0.1",
    key: Key = None,
    concurrent: Concurrent = 64,
    queue: Queue = 256,
    deadline: Deadline = 300.0,
    tokens: Tokens = None,
    budget: BudgetUsd = None,
    grace: Grace = 30.0,
    store: StoreName = None,
    progress: Progress = True,
    runs: Runs = RUNS,
) -> None:
    """Answer questions through OpenAI's chat API with a run's society."""
    from society.cli.errors import report_errors

    with report_errors():
        import asyncio

        from providers import extras

        # Ask for the extra before importing its packages, so that the message names the remedy.
        extras.require_extra("serve", "the API of society serve")
        from society.runs import folder as folders
        from society.terminal.output import say, tell
        from society.view.endpoint.admission import QueueLimits
        from society.view.endpoint.chat import ChatLimits
        from society.view.endpoint.web import EndpointOptions, serve_society

        options = EndpointOptions(
            host=host,
            port=port,
            key=key or None,
            queue=QueueLimits(concurrent, queue),
            chat=ChatLimits(deadline, tokens),
            grace_s=grace,
            budget_usd=budget,
            shows_debate=progress,
        )
        work = serve_society(
            folders.find_run(runs, name),
            options,
            iteration=iteration,
            record=None if store is None else folders.locate_run(runs, store),
            say=say,
            tell=tell,
        )
        asyncio.run(work)
