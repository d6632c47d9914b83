"""Commands that look at an experiment before it is run; they spend nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from society.cli.app import RUNS, ExperimentFile, RunName, Runs, Settings, Skip, app
from society.cli.sweeping import Grid, Listed, Seeds


@app.command("doctor")
def examine(
    config: ExperimentFile,
    name: RunName = None,
    settings: Settings = None,
    grid: Grid = None,
    listed: Listed = None,
    seeds: Seeds = None,
    allow_overlap: Annotated[
        bool,
        typer.Option("--allow-overlap", help="Take alike questions for allowed, as in run."),
    ] = False,
    skip: Skip = None,
    runs: Runs = RUNS,
) -> None:
    """Look whether an experiment or sweep can run: keys, models, endings, disk. Spends nothing."""
    from society.cli.errors import reported

    with reported():
        from society.checks import doctor
        from society.runs import folder as folders
        from society.sweeps import checks
        from society.sweeps.axes import Options, Source

        skipped = doctor.chosen(skip or ())
        chosen = Path(config).stem if name is None else name
        folder = folders.folder(runs, chosen)
        source = Source(config, settings or (), Options(grid or (), listed, seeds))
        if source.several():
            found = checks.examine_file(source, runs, chosen, allow_overlap, skipped)
        else:
            found = doctor.examine_file(
                config, settings or (), folder, allow_overlap=allow_overlap, skip=skipped
            )
        doctor.show(found, sys.stdout)
        if any(finding.level == "error" for finding in found):
            raise typer.Exit(2)


@app.command()
def cost(
    config: ExperimentFile,
    settings: Settings = None,
    grid: Grid = None,
    listed: Listed = None,
    seeds: Seeds = None,
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
    from society.cli.errors import reported

    with reported():
        from evals.tasks.assumed import without_download
        from society.costs import overview
        from society.costs.estimate import estimate
        from society.method.experiment import load_experiment
        from society.sweeps import definition
        from society.sweeps import overview as sweeps
        from society.sweeps.axes import Options, Source

        source = Source(config, settings or (), Options(grid or (), listed, seeds))
        with without_download() as assumed:
            if source.several():
                sweep = definition.load(source, RUNS, "sweep")
                sweeps.show_cost(sweep, answer_tokens, summary_tokens, output, sys.stdout)
            else:
                experiment = load_experiment(config, settings or ())
                found = estimate(experiment, answer_tokens, summary_tokens)
                overview.show(found, experiment.config, output, sys.stdout)
        overview.show_assumed(assumed, sys.stderr)
