"""Commands that look at stored runs."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from society.cli.app import RUNS, AsJson, Name, Runs, app


@app.command()
def status(name: Name, as_json: AsJson = False, runs: Runs = RUNS) -> None:
    """Show how far a run or a sweep is, running or not."""
    from society.cli.errors import report_errors

    with report_errors():
        from society.runs import folder as folders
        from society.runs import sweep_record
        from society.runs.state import read_state
        from society.runs.status import show_status
        from society.sweeps import definition, results
        from society.terminal.table import write_json

        # A sweep has no database of its own, so look for its record first.
        sweep = folders.locate_run(runs, name)
        if (found := sweep_record.read_record(sweep)) is not None:
            if as_json:
                states = [read_state(member) for member in definition.find_runs(runs, name)]
                write_json({"sweep": name, "runs": states}, sys.stdout)
            else:
                results.show_status(sweep, found, sys.stdout)
        elif as_json:
            write_json(read_state(folders.find_run(runs, name)), sys.stdout)
        else:
            show_status(folders.find_run(runs, name), sys.stdout)


@app.command(name="show-prompt")
def show_prompt(
    name: Name,
    turn: Annotated[int, typer.Argument(help="Its turn_id in the table turns.")],
    as_json: AsJson = False,
    runs: Runs = RUNS,
) -> None:
    """Write the text that a model of this machine read for a stored turn, byte for byte."""
    from society.cli.errors import report_errors

    with report_errors():
        from society.runs import folder as folders
        from society.runs.prompts import render_stored_prompt
        from society.terminal.output import say
        from society.terminal.table import write_json
        from store.ledger import Store

        with Store.open(folders.find_run(runs, name).database, read_only=True) as store:
            prompt = render_stored_prompt(store, turn)
        if as_json:
            write_json({"turn": turn, "prompt": prompt}, sys.stdout)
        else:
            say(prompt)


@app.command()
def report(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...",
            help="Names of runs or sweeps; runs that differ only in their seed count as one.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where to write it: a page (.html), or a folder for the page and all figures and "
            "tables as files; default: report.html in the folder of the first name."
        ),
    ] = None,
    paper: Annotated[
        bool, typer.Option("--paper/--no-paper", help="Quote the paper's numbers beside them.")
    ] = True,
    as_json: AsJson = False,
    runs: Runs = RUNS,
) -> None:
    """Write the report of one or more runs: one page that needs no network."""
    from society.cli.errors import report_errors

    with report_errors():
        from contextlib import ExitStack

        from evals import report as reports
        from society.config.load import ConfigError
        from society.runs import folder as folders
        from society.runs.state import describe_run
        from society.sweeps import definition
        from society.terminal.output import say
        from society.terminal.table import write_json
        from store.ledger import Store

        found = [folder for name in names for folder in definition.find_runs(runs, name)]
        named = [folder.name for folder in found]
        if twice := sorted({name for name in named if named.count(name) > 1}):
            raise ConfigError(f"run {twice[0]!r} is named twice; name each run once")
        target = out or folders.locate_run(runs, names[0]).report
        # The report merges runs that differ in their seeds only, so it needs all stores at once.
        with ExitStack() as opened:
            stores = [
                opened.enter_context(Store.open(folder.database, read_only=True))
                for folder in found
            ]
            reports.write_report(stores, target, quote=paper)
            states = [
                describe_run(folder, store) for folder, store in zip(found, stores, strict=True)
            ]
        if as_json:
            write_json({"report": str(target), "runs": states}, sys.stdout)
        else:
            say(str(target))


# Typer repeats an option of an enumeration, not of a Literal.
class MeasureOption(StrEnum):
    """As `store.measures.DiversityMeasure`."""

    EMBEDDING = "embedding"
    NLL = "nll"
    KL = "kl"
    KL_BASE = "kl_base"


class DecodingOption(StrEnum):
    """As `store.records.Decoding`."""

    SAMPLED = "sampled"
    GREEDY = "greedy"


@app.command("diversity")
def measure_diversity(
    name: Name,
    measures: Annotated[
        list[MeasureOption] | None,
        typer.Option("--measure", help="What to measure; default: the run's [diversity]."),
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Sentence encoder: minilm, a model folder or a hub name.")
    ] = None,
    questions: Annotated[
        int | None, typer.Option(min=1, help="Look at no more questions than this.")
    ] = None,
    decodings: Annotated[
        list[DecodingOption] | None,
        typer.Option("--decoding", help="Which answers to look at."),
    ] = None,
    arm: Annotated[str | None, typer.Option(help="One arm only.")] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Measure again what is already measured.")
    ] = False,
    as_json: AsJson = False,
    runs: Runs = RUNS,
) -> None:
    """Measure how different the agents of a run are, after every iteration."""
    from society.cli.errors import report_errors

    with report_errors() as context:
        from society.runs import diversity
        from society.runs import folder as folders
        from society.terminal import signals
        from society.terminal.output import tell
        from store.ledger import Store

        folder = folders.find_run(runs, name)
        choice = diversity.DiversityChoice(
            tuple(measure.value for measure in measures) if measures else None,
            encoder,
            questions,
            tuple(decoding.value for decoding in decodings) if decodings else None,
            arm,
            again,
        )

        def on_society(done: int, total: int) -> None:
            tell(f"{done} of {total} societies measured")

        context.folder, context.resumable = folder.path, True
        with Store.open(folder.database, create=False) as store:
            work = diversity.measure_run(folder, store, choice, on_society)
            rows = signals.run_stoppable(work, tell)
        diversity.show_measurements(rows, sys.stdout, as_json=as_json)
