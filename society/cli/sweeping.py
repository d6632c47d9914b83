"""Sweeps: many runs of one experiment."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from society.cli.app import RUNS, ExperimentFile, RunName, Runs, Settings, Skip, app

if TYPE_CHECKING:
    from society.cli.errors import Context
    from society.sweeps.axes import Source

Grid = Annotated[
    list[str] | None,
    typer.Option("--grid", metavar="KEY=v1,v2", help="Try each: datasets.w=0.2,0.5; repeatable."),
]
Listed = Annotated[
    Path | None,
    typer.Option("--list", metavar="FILE.jsonl", help="One JSON object of settings a line."),
]
Seeds = Annotated[
    str | None, typer.Option("--seeds", metavar="0,1,2", help="Each point once with each seed.")
]
Jobs = Annotated[
    int | None,
    typer.Option("--jobs", min=1, help="Runs at a time; default: cores + 1 for embedded:, else 1."),
]


@app.command()
def sweep(
    config: ExperimentFile,
    grid: Grid = None,
    listed: Listed = None,
    seeds: Seeds = None,
    jobs: Jobs = None,
    name: RunName = None,
    settings: Settings = None,
    allow_overlap: Annotated[
        bool, typer.Option("--allow-overlap", help="As in run, for every run of the sweep.")
    ] = False,
    live: Annotated[
        bool, typer.Option("--live/--no-live", help="As in run, for every run of the sweep.")
    ] = True,
    skip: Skip = None,
    runs: Runs = RUNS,
) -> None:
    """Run an experiment over a grid or list of settings and over seeds, or go on with that."""
    from society.cli.errors import reported

    with reported() as context:
        from society.sweeps.axes import Options, Source

        source = Source(config, settings or (), Options(grid or (), listed, seeds))
        carry_out(context, source, name, jobs, allow_overlap, live, skip or (), runs)


def carry_out(
    context: Context,
    source: Source,
    name: str | None,
    jobs: int | None,
    allow_overlap: bool,
    live: bool,
    skip: Sequence[str],
    runs: Path,
) -> None:
    """Run the sweep that `source` describes."""
    from society.checks import doctor
    from society.sweeps import definition, execution
    from society.terminal.output import tell
    from society.terminal.streams import outlive_readers

    chosen = Path(source.experiment).stem if name is None else name
    found = definition.load(source, runs, chosen)
    skipped = doctor.chosen(skip)
    left = execution.prepare(found, source.experiment, allow_overlap, sys.stderr, skipped)
    context.resumable = True
    context.folder = found.folder.path
    outlive_readers()
    more = ["--allow-overlap"] * allow_overlap + ["--no-live"] * (not live)
    more += [f"--skip={name}" for name in skip]
    failed = execution.run(found, left, jobs, more, sys.stderr)
    execution.conclude(found, sys.stdout)
    if failed:
        count = f"{len(failed)} of {len(found.members)} runs failed"
        tell(f"society: {count}; running again does only what is missing")
        raise typer.Exit(1)
