"""The command that queries runs in SQL."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from society.cli.app import RUNS, Name, Runs, app


@app.command()
def sql(
    name: Name,
    query: Annotated[
        str | None,
        typer.Argument(help='Such as "select * from accuracy"; without it, an interactive prompt.'),
    ] = None,
    others: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="NAME", help="Query this run too; repeatable."),
    ] = None,
    output: Annotated[
        Literal["table", "csv", "json", "parquet"] | None,
        typer.Option(
            "--format", help="How rows are written; default: table, or by the ending of --out."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write instead of showing the rows.")
    ] = None,
    snapshot: Annotated[
        bool, typer.Option("--snapshot", help="Query a copy, made now, of a running run.")
    ] = False,
    allow_files: Annotated[
        bool, typer.Option("--allow-files", help="Let the query read other files, such as a CSV.")
    ] = False,
    runs: Runs = RUNS,
) -> None:
    """Query runs, read-only, running or not. Tables: see docs/schema.md."""
    from society.cli.errors import report_errors

    with report_errors():
        from society.runs import folder as folders
        from society.sql import output as writing
        from society.sql.session import open_session
        from society.terminal.output import tell
        from store.statements import split_queries

        # Check the options before any run is opened, or asked for a snapshot.
        target = writing.choose_target(output, out)
        asked = [folders.find_run(runs, each) for each in (name, *(others or ()))]
        with open_session(
            asked,
            tell,
            snapshots=snapshot,
            files=allow_files,
            may_write=target.part,
        ) as session:
            if query is not None:
                target.write_answer(session, query, sys.stdout)
            # Without a query, a terminal gets the prompt and a pipe is read to its end.
            elif sys.stdin.isatty():
                from society.sql.prompt import run_prompt

                run_prompt(session, "+".join(run.name for run in asked), sys.stdout)
            else:
                statements = split_queries(_read_piped())
                # A file holds one answer, so several statements for one file go on together, to be
                # refused with the message for that.
                for statement in statements if out is None else ["\n;".join(statements)]:
                    target.write_answer(session, statement, sys.stdout)


def _read_piped() -> str:
    from store.errors import InvalidQuery

    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise InvalidQuery(f"the queries are not Unicode text: {error}") from error
