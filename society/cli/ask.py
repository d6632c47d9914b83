"""The command that asks a run's society: one question, or all of a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from society.cli.app import RUNS, AsJson, Iteration, Name, Runs, app

if TYPE_CHECKING:
    from society.cli.errors import CommandContext
    from society.runs.ask_file import FilePlan
    from society.runs.folder import RunFolder

Question = Annotated[str | None, typer.Argument(help='Such as "3+4*5+6-7*8".', show_default=False)]
QuestionsFile = Annotated[
    Path | None,
    typer.Option(
        "--questions", metavar="FILE", help="Ask all of a .jsonl, .csv, .parquet or .txt file."
    ),
]
StoreName = Annotated[
    str | None,
    typer.Option("--store", metavar="NEW", help="The new run that keeps the answers to FILE."),
]
Field = Annotated[
    str | None, typer.Option("--field", help="The field of FILE that has the question.")
]
Gold = Annotated[
    str | None,
    typer.Option("--gold", help="That with the right answer; default: one that is called so."),
]
BudgetUsd = Annotated[
    float | None, typer.Option(min=0.0, help="USD that FILE may cost; default: no limit.")
]


@app.command()
def ask(
    name: Name,
    question: Question = None,
    questions: QuestionsFile = None,
    store: StoreName = None,
    field: Field = None,
    gold: Gold = None,
    iteration: Iteration = None,
    budget: BudgetUsd = None,
    cost: Annotated[
        bool, typer.Option("--cost", help="Price the questions of FILE, and ask none.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print no progress of FILE.")
    ] = False,
    as_json: AsJson = False,
    runs: Runs = RUNS,
) -> None:
    """Let a run's society debate your question, turn by turn, or all questions of a file."""
    from society.cli.errors import report_errors

    with report_errors() as context:
        from society.config.load import ConfigError
        from society.runs import folder as folders

        folder = folders.find_run(runs, name)
        if (question is None) == (questions is None):
            raise ConfigError("give a question, or --questions FILE with many of them")
        if questions is None:
            own = {"--store": store, "--field": field, "--gold": gold, "--budget": budget}
            own |= {"--cost": cost or None, "--quiet": quiet or None}
            if beside := [option for option, value in own.items() if value is not None]:
                raise ConfigError(f"{beside[0]} belongs to --questions FILE; remove it")
            _ask_one(context, folder, str(question), iteration, as_json=as_json)
            return
        from society.runs.ask_file import plan_questions
        from society.runs.question_file import QuestionFile

        if store is None and not cost:
            raise ConfigError("--questions needs --store NEW, the new run that keeps the answers")
        file = QuestionFile(questions, field, gold)
        plan = plan_questions(folder, file, iteration=iteration, budget_usd=budget)
        if store is None or cost:
            _show_cost(plan, as_json=as_json)
            return
        _ask_all(context, folders.locate_run(runs, store), plan, quiet=quiet, as_json=as_json)


def _ask_one(
    context: CommandContext,
    folder: RunFolder,
    question: str,
    iteration: int | None,
    *,
    as_json: bool,
) -> None:
    from dataclasses import asdict

    from society.runs.ask import open_store, show_debate
    from society.runs.opened import OpenRun
    from society.terminal.opening_display import show_openings
    from society.terminal.table import write_json

    if as_json:
        with OpenRun(folder) as opened:
            context.folder = folder.path
            write_json(asdict(opened.ask(question, iteration)), sys.stdout)
        return
    # Opened for writing only if the answer costs something, which the run must record.
    with open_store(folder) as store, show_openings(sys.stderr):
        context.folder = folder.path
        show_debate(folder, store, question, sys.stdout, iteration)


def _show_cost(plan: FilePlan, *, as_json: bool) -> None:
    from society.costs import table
    from society.costs.estimate import estimate_questions

    experiment = plan.experiment
    [arm] = experiment.arms
    found = estimate_questions(experiment, arm, plan.questions, tuned=plan.iteration > 0)
    table.show_estimate(found, experiment.config, "json" if as_json else "table", sys.stdout)


def _ask_all(
    context: CommandContext, folder: RunFolder, plan: FilePlan, *, quiet: bool, as_json: bool
) -> None:
    from society.method.progress import Note
    from society.runs.ask_file import ask_questions, open_answers
    from society.runs.outcomes import read_outcomes
    from society.runs.status import allow_readers, name_command
    from society.terminal import progress_display, signals
    from society.terminal.output import say, tell
    from society.terminal.streams import outlive_readers
    from society.terminal.table import write_json

    with open_answers(folder, plan, tell) as store:
        # All checks of the user's input are above; from here on the same command resumes.
        context.resumable, context.folder = True, folder.path
        outlive_readers()
        if plan.gold_field is not None:
            tell(f"gold answers are from the field {plan.gold_field!r}")
        with (
            allow_readers(folder, store, tell if not quiet else lambda text: None),
            progress_display.show_progress(sys.stderr, plan.iteration, quiet=quiet) as observer,
        ):
            signals.run_stoppable(
                ask_questions(folder, store, plan, observer), lambda text: observer(Note(text))
            )
        outcomes = read_outcomes(store, plan)
    if as_json:
        write_json({"run": folder.name, **outcomes.describe()}, sys.stdout)
        return
    say(str(outcomes))
    say(f"look at it: {name_command('view', folder)}")
