"""The application that the commands register with, and the arguments they share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from providers.extras import PROJECT
from providers.preflight import CHECKS

app = typer.Typer(
    name="society",
    help="Multiagent finetuning: language models that debate, vote and learn from their votes.",
    epilog="Start with: society run demo",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    no_args_is_help=True,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        from society.terminal.output import write_line

        write_line(sys.stdout, f"society {version(PROJECT)}")
        raise typer.Exit


@app.callback()
def _take_options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=_show_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass


def complete_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """The names of runs and sweeps that begin like this, for the shell."""
    folder = Path(ctx.params.get("runs") or RUNS)
    # Listed without opening anything: the shell waits for the answer.
    there = {
        path.parent.name
        for mark in ("run.duckdb", "sweep.json")
        for path in folder.glob(f"*/{mark}")
    }
    return sorted(name for name in there if name.startswith(incomplete))


Name = Annotated[
    str,
    typer.Argument(help="Name of the run.", show_default=False, autocompletion=complete_run),
]
Runs = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Folder that holds the runs.")]
# Relative to the current folder, so that every project has its own runs.
RUNS = Path("runs")
Iteration = Annotated[
    int | None,
    typer.Option(
        min=0, help="The society after this iteration; default: the chosen one, else the last."
    ),
]
ExperimentFile = Annotated[
    str, typer.Argument(help="Experiment file (.toml), or a packaged one, such as demo.")
]
RunName = Annotated[
    str | None, typer.Option("--name", help="Name of the run; default: the experiment's.")
]
Skip = Annotated[
    list[str] | None,
    typer.Option(
        "--skip", metavar="CHECK", help=f"Leave out a check: {', '.join(CHECKS)}; repeatable."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting: society.agents=5."),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Write one JSON object to stdout, for programs.")
]
# The axes of a sweep: `sweep` runs them, `doctor` and `cost` look at them.
Grid = Annotated[
    list[str] | None,
    typer.Option("--grid", metavar="KEY=v1,v2", help="Try each: datasets.w=0.2,0.5; repeatable."),
]
Listed = Annotated[
    Path | None,
    typer.Option("--list", metavar="FILE.jsonl", help="One JSON object of settings a line."),
]
Seeds = Annotated[
    str | None, typer.Option("--seeds", metavar="0,1,2", help="Run each point with each seed.")
]
