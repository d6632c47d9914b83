"""The command that queries runs in SQL."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from society.cli.app import RUNS, AsJson, Name, Runs, app

How = Annotated[
    bool, typer.Option("--how", help="Show the ways to read this run, also with other tools.")
]
Format = Annotated[
    Literal["table", "csv", "json", "parquet"] | None,
    typer.Option(
        "--format", help="How rows are written; default: table, or by the ending of --out."
    ),
]


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
    output: Format = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write instead of showing the rows.")
    ] = None,
    snapshot: Annotated[
        bool, typer.Option("--snapshot", help="Query a copy, made now, of a running run.")
    ] = False,
    allow_files: Annotated[
        bool, typer.Option("--allow-files", help="Let the query read other files, such as a CSV.")
    ] = False,
    how: How = False,
    as_json: AsJson = False,
    runs: Runs = RUNS,
) -> None:
    """Query runs, read-only, running or not. Tables: see docs/schema.md."""
    from society.cli.errors import report_errors

    with report_errors():
        from society.runs import folder as folders
        from society.sql import output as writing
        from society.sql.session import open_session
        from society.sql.ways import list_ways
        from society.terminal.output import say, tell

        if how:
            say("\n".join(list_ways(folders.find_run(runs, name))))
            return
        # Check the options before any run is opened, or asked for a snapshot.
        target = writing.choose_target("json" if as_json else output, out)
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
                for statement in _read_piped(several=out is None):
                    target.write_answer(session, statement, sys.stdout)


def _read_piped(*, several: bool) -> list[str]:
    from store.errors import InvalidQuery
    from store.statements import split_queries

    try:
        statements = split_queries(sys.stdin.read())
        # A file holds one answer, so several statements for one file go on together, to be refused
        # with the message for that.
        return statements if several else ["\n;".join(statements)]
    except UnicodeDecodeError as error:
        raise InvalidQuery(f"the queries are not Unicode text: {error}") from error
