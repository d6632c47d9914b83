"""The command that shows how a response is read."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import typer

from society.cli.app import app

Kind = Literal["number", "math", "choice", "text", "regex"]


@app.command("read")
def read_answer(
    text: Annotated[
        str,
        typer.Argument(
            metavar="TEXT", help="A response; - reads it from stdin.", show_default=False
        ),
    ],
    answer: Annotated[
        Kind,
        typer.Option("--answer", help="Kind of answer, as in task.answer.", show_default=False),
    ],
    gold: Annotated[
        str | None, typer.Option("--gold", help="Compare with this answer or worked solution.")
    ] = None,
    choices: Annotated[
        int | None, typer.Option("--choices", help="choice: how many letters there are; default 4.")
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option("--tolerance", help="number: see docs/tasks.md.")
    ] = None,
    pattern: Annotated[
        str | None, typer.Option("--pattern", help="regex: the regular expression.")
    ] = None,
    case: Annotated[
        Literal["ignore", "match"] | None, typer.Option("--case", help="text, regex: of letters.")
    ] = None,
) -> None:
    """Show which answer is read from a response, and by which rule: see docs/answers.md."""
    from society.cli.errors import reported

    with reported():
        from society.checks import read

        options = {"choices": choices, "tolerance": tolerance, "pattern": pattern, "case": case}
        given = {name: value for name, value in options.items() if value is not None}
        response = sys.stdin.read() if text == "-" else text
        read.show(answer, given, response, gold, sys.stdout)
