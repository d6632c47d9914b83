"""The command that makes one model of a society."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from society.cli.app import RUNS, AsJson, Iteration, Name, Runs, app

if TYPE_CHECKING:
    from society.method.distilling import Distillation
    from society.runs.folder import RunFolder
    from store.ledger import Store


QuestionFile = Annotated[
    Path | None,
    typer.Option("--questions", metavar="FILE", help="More questions without labels to debate."),
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="finetune.*, datasets.*, budget_usd."),
]


@app.command("distill")
def distill_run(
    name: Name,
    questions: QuestionFile = None,
    field: Annotated[
        str | None, typer.Option("--field", help="The field of FILE that has the question.")
    ] = None,
    training: Annotated[
        int | None,
        typer.Option(
            "--training", min=0, help="How many of the run's training questions; default: all."
        ),
    ] = None,
    arm: Annotated[
        str | None, typer.Option(help="The arm whose society teaches; default: the main one.")
    ] = None,
    iteration: Iteration = None,
    name_as: Annotated[
        str, typer.Option("--as", metavar="NAME", help="What the new arm of the run is called.")
    ] = "distilled",
    settings: Changes = None,
    cost: Annotated[bool, typer.Option("--cost", help="Price it, and spend nothing.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress.")] = False,
    as_json: AsJson = False,
    runs: Runs = RUNS,
) -> None:
    """Train one model on what a run's society agrees on, or resume that: see docs/distill.md."""
    from society.cli.errors import report_errors

    with report_errors() as context:
        from society.runs import distill
        from society.runs import folder as folders
        from society.terminal.streams import outlive_readers
        from store.ledger import Store

        folder = folders.find_run(runs, name)
        choice = distill.DistillChoice(
            name_as, arm, iteration, questions, field, training, settings or ()
        )
        # Without a lock, so that a running run can be priced too.
        if cost:
            with Store.open(folder.database, read_only=True) as store:
                _show_cost(distill.plan_from_run(store, choice), as_json=as_json)
            return
        with Store.open(folder.database, create=False) as store:
            plan = distill.plan_from_run(store, choice)
            # All checks of the user's input are above; from here on the same command resumes.
            context.resumable, context.folder = True, folder.path
            outlive_readers()
            _carry_out(folder, store, plan, quiet=quiet, as_json=as_json)


def _show_cost(plan: Distillation, *, as_json: bool) -> None:
    from society.costs import table
    from society.costs.estimate import estimate_questions

    # The first society is untuned, and so are its debates.
    found = estimate_questions(
        plan.experiment,
        plan.teacher,
        plan.questions,
        tuned=plan.iteration > 0,
        student=plan.student,
    )
    config = plan.experiment.config
    table.show_estimate(found, config, "json" if as_json else "table", sys.stdout)


def _carry_out(
    folder: RunFolder, store: Store, plan: Distillation, *, quiet: bool, as_json: bool
) -> None:
    from evals import report as reports
    from society.costs.budget import read_spending
    from society.method.progress import Note
    from society.runs import distill, distillation
    from society.runs.status import allow_readers
    from society.terminal import progress_display, signals
    from society.terminal.output import say, tell
    from society.terminal.table import write_json

    with (
        allow_readers(folder, store, tell if not quiet else lambda text: None),
        progress_display.show_progress(sys.stderr, plan.iteration + 1, quiet=quiet) as observer,
    ):
        signals.run_stoppable(
            distill.distill(folder, store, plan, observer), lambda text: observer(Note(text))
        )
    results = distillation.read_distillation(store, plan, plan.experiment.questions.task)
    if as_json:
        write_json(distillation.describe_distillation(results, plan), sys.stdout)
    else:
        distillation.show_distillation(results, plan, sys.stdout)
        if spending := str(read_spending(store)):
            say(spending.replace("so far", "in all"))
    # The report comes last: if it fails, all results are stored and printed already.
    reports.write_report([store], folder.report)
    if not as_json:
        say(f"report: {folder.report}")
