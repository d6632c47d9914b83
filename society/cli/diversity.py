"""How different the agents of a run are."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from society.cli.app import RUNS, Name, Runs, app


class Measure(StrEnum):
    """As `store.records.DiversityMeasure`."""

    EMBEDDING = "embedding"
    NLL = "nll"
    KL = "kl"
    KL_BASE = "kl_base"


class Decoding(StrEnum):
    """As `store.records.Decoding`."""

    SAMPLED = "sampled"
    GREEDY = "greedy"


@app.command("diversity")
def measure(
    name: Name,
    measures: Annotated[
        list[Measure] | None,
        typer.Option("--measure", help="What to measure; default: the run's [diversity]."),
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Sentence encoder: minilm, a model folder or a hub name.")
    ] = None,
    questions: Annotated[
        int | None, typer.Option(min=1, help="How many questions to look at, at most.")
    ] = None,
    decodings: Annotated[
        list[Decoding] | None,
        typer.Option("--decoding", help="Which answers to look at."),
    ] = None,
    arm: Annotated[str | None, typer.Option(help="One arm only.")] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Measure also what is measured already.")
    ] = False,
    runs: Runs = RUNS,
) -> None:
    """Measure how different the agents of a run are, after every iteration."""
    from society.cli.errors import reported

    with reported() as context:
        from society.runs import diversity
        from society.runs import folder as folders
        from society.terminal import stopping
        from society.terminal.output import tell
        from store.ledger import Store

        folder = folders.existing(runs, name)
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
            rows = stopping.run(work, tell)
        diversity.show_measurements(rows, sys.stdout)
