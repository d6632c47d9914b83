"""Commands that bring runs in and out: transcripts to a run, a run to files."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from evals.answers import OptionFreeAnswerName
from society.cli.app import RUNS, Name, Runs, app

if TYPE_CHECKING:
    from society.exporting import Kind

# Typer repeats an option of an enumeration, not of a Literal.
What = StrEnum(
    "What",
    ["all", "questions", "turns", "verdicts", "votes", "debates", "datasets", "models"],
)


@app.command("import")
def import_transcripts(
    file: Annotated[Path, typer.Argument(help="File of transcripts.")],
    name: Annotated[str, typer.Option(help="Name of the new run.", show_default=False)],
    config: Annotated[
        str | None, typer.Option(help="Experiment (.toml) that the new run belongs to.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Task that says how answers are read, such as gsm8k.")
    ] = None,
    answers: Annotated[
        OptionFreeAnswerName | None,
        typer.Option(help="Kind of answer, if there is no task."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one setting: datasets.w=0.3."),
    ] = None,
    split: Annotated[
        Literal["train", "eval"], typer.Option(help="Split of debates that name none.")
    ] = "train",
    iteration: Annotated[
        int | None,
        typer.Option(min=0, help="Iteration of debates that name none; default: 1, in eval 0."),
    ] = None,
    skip_incomplete: Annotated[
        bool, typer.Option("--skip-incomplete", help="Leave out debates with missing answers.")
    ] = False,
    runs: Runs = RUNS,
) -> None:
    """Make a run from debates that were held outside society: see docs/import.md."""
    from society.cli.errors import report_errors

    with report_errors():
        from society import importing
        from society.importing import overview
        from society.runs import folder as folders

        imported = importing.import_file(
            file,
            folders.locate_run(runs, name),
            importing.ImportSource(config, task, answers, settings or ()),
            split=split,
            iteration=iteration,
            skip_incomplete=skip_incomplete,
        )
        overview.show_import(imported, sys.stdout)


@app.command("export")
def export_run(
    name: Name,
    what: Annotated[list[What] | None, typer.Option(help="What to write; may be repeated.")] = None,
    output: Annotated[
        Literal["parquet", "jsonl", "csv", "chat", "sharegpt", "hf"],
        typer.Option(
            "--format",
            help="Rows (parquet, jsonl, csv), training data in a trainer's shape (chat, sharegpt), "
            "or a Hugging Face dataset folder with its card (hf).",
        ),
    ] = "parquet",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder, or the file if one is written; default: RUN/export."),
    ] = None,
    arm: Annotated[str | None, typer.Option(help="Only this arm.")] = None,
    iteration: Annotated[int | None, typer.Option(min=0, help="Only this iteration.")] = None,
    split: Annotated[Literal["train", "eval"] | None, typer.Option(help="Only this split.")] = None,
    agent: Annotated[
        int | None, typer.Option(min=0, help="Only this agent; 0: shared models.")
    ] = None,
    role: Annotated[
        Literal["generator", "critic", "summarizer"] | None, typer.Option(help="Only this role.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files of that name.")] = False,
    runs: Runs = RUNS,
) -> None:
    """Write transcripts and training data as files for other tools: see docs/export.md."""
    from society.cli.errors import report_errors

    with report_errors():
        from society import exporting
        from society.runs import folder as folders
        from society.terminal.output import say, tell
        from store.selection import Selection

        folder = folders.find_run(runs, name)
        exported = exporting.export_run(
            folder.database,
            out or folder.path / "export",
            [] if not what or "all" in what else [cast("Kind", each.value) for each in what],
            output,
            Selection(arm, iteration, split, agent, role),
            force=force,
        )
        for file in exported.files:
            rows = "" if file.rows is None else f"{file.rows:>10,} rows"
            say(f"{rows:>15}  {file.path}")
        for note in exported.notes:
            tell(f"note: {note}")
