"""Commands about several runs, and about what runs leave behind."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from society.cli.app import RUNS, AsJson, Iteration, Name, Runs, app, complete_run

if TYPE_CHECKING:
    from society.runs.pruning import PrunedItem, PrunePlan


@app.command("list")
def list_runs(as_json: AsJson = False, runs: Runs = RUNS) -> None:
    """List the runs of this folder: state, best accuracy, cost, size on disk."""
    from society.cli.errors import report_errors

    with report_errors():
        from dataclasses import asdict

        from society.runs import listing
        from society.terminal.output import say
        from society.terminal.table import write_json

        found, sweeps = listing.list_runs(runs), listing.list_sweeps(runs)
        if as_json:
            lines = [asdict(line) for line in found]
            write_json({"folder": str(runs), "runs": lines, "sweeps": sweeps}, sys.stdout)
        elif found:
            listing.show_runs(found, sweeps, sys.stdout)
        else:
            say(f"no run in {runs}/ yet; start one with: society run demo")


@app.command("compare")
def compare_runs(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME NAME...",
            help="Names of runs or sweeps; the first is compared with each other one.",
            show_default=False,
            autocompletion=complete_run,
        ),
    ],
    arm: Annotated[
        str | None, typer.Option(help="The arm to compare; default: each run's main one.")
    ] = None,
    iteration: Iteration = None,
    decoding: Annotated[
        Literal["sampled", "greedy"] | None,
        typer.Option(help="Which answers; default: sampled, if all runs have some."),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Label of an extra task; default: the runs' own.")
    ] = None,
    as_json: AsJson = False,
    runs: Runs = RUNS,
) -> None:
    """Compare runs on the questions they share, paired, with intervals: see docs/commands.md."""
    from society.cli.errors import report_errors

    with report_errors():
        from contextlib import ExitStack

        from society.runs import comparing
        from society.sweeps import definition
        from society.terminal.table import write_json
        from store.ledger import Store

        folders = [folder for name in names for folder in definition.find_runs(runs, name)]
        choice = comparing.ComparisonChoice(arm, iteration, decoding, task)
        with ExitStack() as opened:
            stores = [
                opened.enter_context(Store.open(folder.database, read_only=True))
                for folder in folders
            ]
            found = comparing.compare_runs(stores, choice)
        if as_json:
            write_json(comparing.describe_comparison(found), sys.stdout)
        else:
            comparing.show_comparison(found, sys.stdout)


@app.command("prune")
def prune_run(
    name: Name,
    keep: Annotated[
        list[int] | None,
        typer.Option("--keep", min=0, help="Keep the models of this iteration too; repeatable."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Keep no model; the run can still be read.")
    ] = False,
    unfinished: Annotated[
        bool,
        typer.Option("--unfinished", help="Prune a run that has not finished as if it had."),
    ] = False,
    local: Annotated[
        bool, typer.Option("--local", help="Only this machine; no vendor or server is asked.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")] = False,
    as_json: AsJson = False,
    runs: Runs = RUNS,
) -> None:
    """Remove the models that a run does not need any more, here, at vendors and at servers."""
    from society.cli.errors import report_errors

    with report_errors():
        import asyncio

        from society.runs import folder as folders
        from society.runs import pruning
        from society.terminal.output import tell
        from store.ledger import Store

        folder = folders.find_run(runs, name)
        choice = pruning.PruneChoice(tuple(keep or ()), everything, unfinished, local)
        # Opened for writing, so that no other process starts the run meanwhile.
        with Store.open(folder.database, create=False) as store:
            plan = asyncio.run(pruning.plan_pruning(folder, store, choice))
            if not as_json:
                pruning.show_plan(plan, sys.stdout)
            failures: list[tuple[pruning.PrunedItem, str]] = []
            wanted = bool(plan.items) and (yes or (not as_json and _ask_to_remove(plan)))
            if wanted:
                failures = asyncio.run(pruning.prune(folder, store, plan, tell))
        _end_pruning(plan, failures, removed=wanted, as_json=as_json)


def _ask_to_remove(plan: PrunePlan) -> bool:
    """Whether the user wants it, who must be there to say so."""
    from society.config.load import ConfigError

    if not sys.stdin.isatty():
        raise ConfigError("nothing was removed: add --yes to remove this without being asked")
    return typer.confirm(f"Remove these {len(plan.items)}?", err=True)


def _end_pruning(
    plan: PrunePlan, failures: list[tuple[PrunedItem, str]], *, removed: bool, as_json: bool
) -> None:
    from society.runs import pruning
    from society.terminal.output import tell
    from society.terminal.table import write_json

    if as_json:
        write_json(pruning.describe_pruning(plan, failures, removed=removed), sys.stdout)
    for item, reason in failures:
        tell(f"not removed: {pruning.describe_item(item)}: {reason}")
    if failures:
        raise typer.Exit(1)
