"""Commands that look at an experiment before it is run; they spend nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from society.cli.app import RUNS, Experiment, RunName, Runs, Settings, app


@app.command("doctor")
def examine(
    config: Experiment,
    name: RunName = None,
    settings: Settings = None,
    allow_overlap: Annotated[
        bool,
        typer.Option("--allow-overlap", help="Take alike questions for allowed, as in run."),
    ] = False,
    runs: Runs = RUNS,
) -> None:
    """Look whether an experiment can be run: keys, models, endings, disk. Spends nothing."""
    from society.failures import reported

    with reported():
        from society import doctor
        from society import runs as folders

        folder = folders.folder(runs, Path(config).stem if name is None else name)
        found = doctor.examine_file(config, settings or (), folder, allow_overlap=allow_overlap)
        doctor.show(found, sys.stdout)
        if any(finding.level == "error" for finding in found):
            raise typer.Exit(2)


@app.command()
def cost(
    config: Experiment,
    settings: Settings = None,
    answer_tokens: Annotated[
        int | None, typer.Option(min=1, help="How many tokens an answer usually takes.")
    ] = None,
    summary_tokens: Annotated[
        int | None, typer.Option(min=1, help="How many tokens a summary usually takes.")
    ] = None,
    output: Annotated[
        Literal["table", "csv", "json"], typer.Option("--format", help="How rows are written.")
    ] = "table",
) -> None:
    """Price a whole experiment before its first call; needs no key and spends nothing."""
    from society.failures import reported

    with reported():
        from society import config as experiments
        from society.costing import overview
        from society.costing.estimate import estimate

        experiment = experiments.load(config, settings or ())
        found = estimate(experiment, answer_tokens, summary_tokens)
        overview.show(found, experiment, output, sys.stdout)
