"""The application that the commands register with, and the arguments they share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from providers.preflight import CHECKS

app = typer.Typer(
    name="society",
    help="Multiagent finetuning: language models that debate, vote and learn from their votes.",
    epilog="Start with: society run demo",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(help="Name of the run.", show_default=False)]
Runs = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Folder that holds the runs.")]
# Relative to the current folder, so that every project has its own runs.
RUNS = Path("runs")
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
