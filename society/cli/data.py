"""Commands that bring runs in and out: transcripts to a run, a run to files, models home."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from evals.answers import OptionFreeAnswerName
from society.cli.app import RUNS, Name, Runs, app

if TYPE_CHECKING:
    from society.exporting import Kind
    from society.runs.folder import RunFolder

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


Output = Annotated[
    Literal["parquet", "jsonl", "csv", "chat", "sharegpt", "hf"],
    typer.Option(
        "--format",
        help="Rows (parquet, jsonl, csv), training data in a trainer's shape (chat, sharegpt), "
        "or a Hugging Face dataset folder with its card (hf).",
    ),
]
Form = Annotated[
    Literal["adapters", "merged", "gguf"] | None,
    typer.Option(
        "--model",
        help="Write tuned models in place of rows: PEFT folders, whole models, or GGUF files.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(help="Folder, or the file if one is written; default: RUN/export."),
]
Arm = Annotated[str | None, typer.Option(help="Only this arm.")]
Iteration = Annotated[int | None, typer.Option(min=0, help="Only this iteration.")]
OfSplit = Annotated[Literal["train", "eval", "label"] | None, typer.Option(help="Only this split.")]
Agent = Annotated[int | None, typer.Option(min=0, help="Only this agent; 0: shared models.")]
OfRole = Annotated[
    Literal["generator", "critic", "summarizer"] | None, typer.Option(help="Only this role.")
]
Base = Annotated[
    str | None,
    typer.Option(
        "--base", metavar="ORG/NAME", help="With --model: the name others find the base by."
    ),
]
Push = Annotated[
    str | None,
    typer.Option(
        "--push", metavar="ORG/NAME", help="With --model: push it to this repository of the hub."
    ),
]


@app.command("export")
def export_run(
    name: Name,
    what: Annotated[list[What] | None, typer.Option(help="What to write; may be repeated.")] = None,
    output: Output = "parquet",
    model: Form = None,
    out: Out = None,
    arm: Arm = None,
    iteration: Iteration = None,
    split: OfSplit = None,
    agent: Agent = None,
    role: OfRole = None,
    base: Base = None,
    push: Push = None,
    public: Annotated[
        bool, typer.Option("--public", help="With --push: make a new repository public.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files of that name.")] = False,
    runs: Runs = RUNS,
) -> None:
    """Write transcripts, training data or tuned models for other tools: see docs/export.md."""
    from society.cli.errors import report_errors

    with report_errors():
        from society import exporting
        from society.config.load import ConfigError
        from society.runs import folder as folders
        from society.terminal.output import say, tell
        from store.selection import Selection

        folder = folders.find_run(runs, name)
        if model is not None:
            if what or split is not None or role == "summarizer":
                raise ConfigError("--what, --split and the summarizer are of rows, not of --model")
            choice = _ModelOptions(arm, iteration, agent, role, base)
            _export_models(folder, model, out, choice, push, public=public, force=force)
            return
        if base is not None or push is not None or public:
            raise ConfigError("--base, --push and --public go with --model")
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


@dataclass(frozen=True, slots=True)
class _ModelOptions:
    arm: str | None
    iteration: int | None
    agent: int | None
    role: Literal["generator", "critic"] | None
    base: str | None


def _export_models(
    folder: RunFolder,
    form: Literal["adapters", "merged", "gguf"],
    out: Path | None,
    options: _ModelOptions,
    push: str | None,
    *,
    public: bool,
    force: bool,
) -> None:
    from dataclasses import asdict

    from society.exporting import models
    from society.exporting.model_choice import ModelChoice
    from society.exporting.push import check_push, push_folder
    from society.terminal.output import say, tell

    if push is not None:
        check_push(push)
    target = out or folder.path / "export" / form
    choice = ModelChoice(**asdict(options), published=push is not None)
    for path in models.export_models(folder, form, target, choice, tell, force=force):
        say(str(path))
    if push is not None:
        say(push_folder(target, push, f"Models of run {folder.name}", public=public))


@app.command("pull")
def pull_models(
    name: Name,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the models; default: RUN/adapters.")
    ] = None,
    iteration: Annotated[int | None, typer.Option(min=1, help="Only this iteration.")] = None,
    runs: Runs = RUNS,
) -> None:
    """Fetch tuned models from the server that keeps them, as PEFT folders: see docs/cookbook."""
    from society.cli.errors import report_errors

    with report_errors():
        import asyncio

        from society.runs import folder as folders
        from society.runs import pull
        from society.terminal.output import say

        folder = folders.find_run(runs, name)
        found = asyncio.run(
            pull.pull_models(folder, out or folder.path / "adapters", iteration, say)
        )
        there = sum(not model.new for model in found)
        if not found:
            say("no tuned model of this run is at a server; those of this machine are in models/")
        elif there:
            say(f"{there} already there")
