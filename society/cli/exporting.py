"""The command that writes a run as files for other tools."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from society.cli.app import RUNS, Name, Runs, app

if TYPE_CHECKING:
    from society.exporting import Kind

# Typer repeats an option of an enumeration, not of a Literal.
What = StrEnum(
    "What",
    ["all", "questions", "turns", "verdicts", "votes", "debates", "datasets", "models"],
)


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
        Path | None, typer.Option(help="Folder, or file if there is one; default: RUN/export.")
    ] = None,
    arm: Annotated[str | None, typer.Option(help="Only this arm.")] = None,
    iteration: Annotated[int | None, typer.Option(min=0, help="Only this iteration.")] = None,
    split: Annotated[Literal["train", "eval"] | None, typer.Option(help="Only this split.")] = None,
    agent: Annotated[
        int | None, typer.Option(min=0, help="Only this agent; 0: models shared by all.")
    ] = None,
    role: Annotated[
        Literal["generator", "critic", "summarizer"] | None, typer.Option(help="Only this role.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files of that name.")] = False,
    runs: Runs = RUNS,
) -> None:
    """Write transcripts and training data as files for other tools: see docs/export.md."""
    from society.cli.errors import reported

    with reported():
        from society import exporting
        from society.runs import folder as folders
        from society.terminal.output import say, tell
        from store.selection import Selection

        folder = folders.existing(runs, name)
        exported = exporting.export(
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
