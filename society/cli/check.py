"""Commands that need no run: they check an experiment, price it, or read one answer.

They spend nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from evals.answers import AnswerName
from society.cli.app import (
    RUNS,
    ExperimentFile,
    Grid,
    Listed,
    RunName,
    Runs,
    Seeds,
    Settings,
    Skip,
    app,
)

if TYPE_CHECKING:
    from evals.answers.base import AnswerKind

_MOST_STATED = 8


@app.command("doctor")
def check_experiment(
    config: ExperimentFile,
    name: RunName = None,
    settings: Settings = None,
    grid: Grid = None,
    listed: Listed = None,
    seeds: Seeds = None,
    allow_overlap: Annotated[
        bool,
        typer.Option(
            "--allow-overlap", help="Accept questions that resemble each other, as in run."
        ),
    ] = False,
    skip: Skip = None,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Also load a local model and compare its answers."),
    ] = False,
    runs: Runs = RUNS,
) -> None:
    """Check whether an experiment or sweep can run: keys, models, disk. Spends nothing."""
    from society.cli.errors import report_errors

    with report_errors():
        from society.checks import doctor
        from society.config.load import ConfigError
        from society.runs import folder as folders
        from society.sweeps import preflight
        from society.sweeps.axes import SweepOptions, SweepSource

        skipped = doctor.parse_skips(skip or ())
        chosen = Path(config).stem if name is None else name
        folder = folders.locate_run(runs, chosen)
        source = SweepSource(config, settings or (), SweepOptions(grid or (), listed, seeds))
        if source.several():
            if deep:
                raise ConfigError(
                    "--deep tries the models of one experiment; leave out --grid, --list, --seeds"
                )
            found = preflight.preflight_sweep(source, runs, chosen, allow_overlap, skipped)
        else:
            found = doctor.preflight_file(
                config,
                settings or (),
                folder,
                allow_overlap=allow_overlap,
                skip=skipped,
                deep=deep,
            )
        doctor.show_findings(found, sys.stdout)
        # The same status as `run` has for these errors.
        if any(finding.level == "error" for finding in found):
            raise typer.Exit(2)


@app.command("cost")
def price_experiment(
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
    from society.cli.errors import report_errors

    with report_errors():
        from evals.tasks.placeholders import without_download
        from society.costs import table
        from society.costs.estimate import estimate_cost
        from society.method.experiment import load_experiment
        from society.sweeps import cost as sweeps
        from society.sweeps import definition
        from society.sweeps.axes import SweepOptions, SweepSource

        source = SweepSource(config, settings or (), SweepOptions(grid or (), listed, seeds))
        # `cost` must answer without a network: missing data sets are replaced by an assumption.
        with without_download() as assumed:
            if source.several():
                sweep = definition.load_sweep(source, RUNS, "sweep")
                sweeps.show_cost(sweep, answer_tokens, summary_tokens, output, sys.stdout)
            else:
                experiment = load_experiment(config, settings or ())
                found = estimate_cost(experiment, answer_tokens, summary_tokens)
                table.show_estimate(found, experiment.config, output, sys.stdout)
        table.show_assumed_tasks(assumed, sys.stderr)


@app.command("read")
def read_answer(
    text: Annotated[
        str,
        typer.Argument(
            metavar="TEXT", help="A response; - reads it from stdin.", show_default=False
        ),
    ],
    answer: Annotated[
        AnswerName,
        typer.Option("--answer", help="Kind of answer, as in task.answer.", show_default=False),
    ],
    gold: Annotated[
        str | None, typer.Option("--gold", help="Compare with this answer or worked solution.")
    ] = None,
    choices: Annotated[
        int | None, typer.Option("--choices", help="choice: how many letters there are; default 4.")
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option("--tolerance", help="number: see docs/tasks.md.")
    ] = None,
    pattern: Annotated[
        str | None, typer.Option("--pattern", help="regex: the regular expression.")
    ] = None,
    case: Annotated[
        Literal["ignore", "match"] | None,
        typer.Option("--case", help="text, regex: whether case matters."),
    ] = None,
) -> None:
    """Show which answer is read from a response, and by which rule: see docs/answers.md."""
    from society.cli.errors import report_errors

    with report_errors():
        options = {"choices": choices, "tolerance": tolerance, "pattern": pattern, "case": case}
        given = {name: value for name, value in options.items() if value is not None}
        response = sys.stdin.read() if text == "-" else text
        _show_reading(answer, given, response, gold)


def _show_reading(
    name: str, options: Mapping[str, object], response: str, gold: str | None
) -> None:
    """Print what the kind of answer `name` reads from `response`, and whether it is `gold`.

    Raises `ConfigError` for a wrong option and for a gold answer that cannot be read.
    """
    from evals.answers import load_kind
    from society.config.load import ConfigError
    from society.terminal.output import one_line, say

    try:
        answers = load_kind(name, options)
        gold = None if gold is None else answers.read_gold(gold)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    for title, text in _describe_reading(answers, response, gold):
        say(f"{title:<11}{one_line(text)}")


def _describe_reading(
    answers: AnswerKind, response: str, gold: str | None
) -> list[tuple[str, str]]:
    """Title and text of each line: the answer, its meaning, the rule, what else was stated."""
    from evals.answers.statements import find_statements
    from evals.answers.thoughts import strip_thoughts

    reading = answers.explain(response)
    lines = [("read", "nothing" if reading.answer is None else reading.answer)]
    if reading.answer is not None:
        lines.append(("meaning", answers.canonicalize(reading.answer)))
    lines.append(("rule", reading.rule))
    # A regular expression looks at the whole response, not at stated answers.
    if answers.name != "regex":
        stated = [f"{s.form} {s.text}" for s in find_statements(strip_thoughts(response).text)]
        hidden = len(stated) - _MOST_STATED
        more = [f"and {hidden} before"] if hidden > 0 else []
        lines.append(("stated", " · ".join([*stated[-_MOST_STATED:], *more]) or "nothing"))
    if gold is not None:
        same = reading.answer is not None and answers.same(reading.answer, gold)
        lines += [("gold", gold), ("verdict", "right" if same else "wrong")]
    return lines
