"""Commands that need no run: they check an experiment, price it, or read one answer.

They spend nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from evals.answers import AnswerName
from society.cli.app import (
    RUNS,
    AsJson,
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
    as_json: AsJson = False,
    runs: Runs = RUNS,
) -> None:
    """Check whether an experiment or sweep can run: keys, models, disk. Spends nothing."""
    from society.cli.errors import report_errors

    with report_errors():
        from society.checks import doctor
        from society.checks.findings import show_findings
        from society.config.load import ConfigError
        from society.runs import folder as folders
        from society.sweeps import preflight
        from society.sweeps.axes import SweepOptions, SweepSource
        from society.terminal.opening_display import show_openings

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
            with show_openings(sys.stderr, quiet=as_json):
                found = doctor.preflight_file(
                    config,
                    settings or (),
                    folder,
                    allow_overlap=allow_overlap,
                    skip=skipped,
                    deep=deep,
                )
        if not show_findings(found, sys.stdout, as_json=as_json):
            # The same status as `run` has for these errors.
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
    as_json: AsJson = False,
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

        output = "json" if as_json else output
        source = SweepSource(config, settings or (), SweepOptions(grid or (), listed, seeds))
        # `cost` must answer without a network: missing data sets are replaced by an assumption.
        with without_download() as assumed:
            if source.several():
                sweep = definition.load_sweep(source, RUNS, "sweep")
                sweeps.show_cost(sweep, answer_tokens, summary_tokens, output, sys.stdout)
            else:
                # Without prices the tokens are all the more of use.
                experiment = load_experiment(config, settings or (), priced=False)
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
    as_json: AsJson = False,
) -> None:
    """Show which answer is read from a response, and by which rule: see docs/answers.md."""
    from society.cli.errors import report_errors

    with report_errors():
        options = {"choices": choices, "tolerance": tolerance, "pattern": pattern, "case": case}
        given = {name: value for name, value in options.items() if value is not None}
        response = sys.stdin.read() if text == "-" else text
        _show_reading(answer, given, response, gold, as_json=as_json)


@app.command(name="config")
def show_config_keys(
    key: Annotated[
        str | None,
        typer.Argument(help="A key or a section, such as finetune.lora_rank.", show_default=False),
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Write a JSON Schema, for editors.")
    ] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Write all keys as the page docs/config.md.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Explain the keys of the experiment file: values, default, and when to change them."""
    from society.cli.errors import report_errors

    with report_errors():
        from dataclasses import asdict

        from society.config import reference
        from society.config.load import ConfigError
        from society.terminal.output import write_line
        from society.terminal.table import write_json

        if schema:
            write_line(
                sys.stdout, json.dumps(reference.build_json_schema(), indent=2, ensure_ascii=False)
            )
        elif markdown:
            sys.stdout.write(reference.write_reference())
        elif found := reference.find_keys(key) if key else reference.list_described():
            if as_json:
                write_json({"keys": [asdict(each) for each in found]}, sys.stdout)
            else:
                write_line(sys.stdout, reference.explain_keys(found))
        else:
            meant = reference.suggest_key(key or "")
            raise ConfigError(
                f"the experiment file has no key {key!r}; "
                + (f"did you mean {meant}?" if meant else "society config lists all keys")
            )


def _show_reading(
    name: str, options: Mapping[str, object], response: str, gold: str | None, *, as_json: bool
) -> None:
    """Print what the kind of answer `name` reads from `response`, and whether it is `gold`.

    Raises `ConfigError` for a wrong option and for a gold answer that cannot be read.
    """
    from evals.answers import load_kind
    from society.config.load import ConfigError
    from society.terminal.output import one_line, say
    from society.terminal.table import write_json

    try:
        answers = load_kind(name, options)
        gold = None if gold is None else answers.read_gold(gold)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    found = _explain_reading(answers, response, gold)
    if as_json:
        write_json(found, sys.stdout)
        return
    for title, text in _format_reading(found):
        say(f"{title:<11}{one_line(text)}")


def _explain_reading(
    answers: AnswerKind, response: str, gold: str | None
) -> dict[str, str | bool | list[str] | None]:
    """The answer, its meaning, the rule, what else was stated (None: not looked for); with a gold
    answer, whether it is right."""
    from evals.answers.statements import find_statements
    from evals.answers.thoughts import strip_thoughts

    reading = answers.explain(response)
    meaning = None if reading.answer is None else answers.canonicalize(reading.answer)
    found: dict[str, str | bool | list[str] | None] = {
        "read": reading.answer,
        "meaning": meaning,
        "rule": reading.rule,
        "stated": None,
    }
    # A regular expression looks at the whole response, not at stated answers.
    if answers.name != "regex":
        statements = find_statements(strip_thoughts(response).text)
        found["stated"] = [f"{each.form} {each.text}" for each in statements]
    if gold is not None:
        found["gold"] = gold
        found["right"] = reading.answer is not None and answers.same(reading.answer, gold)
    return found


def _format_reading(
    found: Mapping[str, str | bool | list[str] | None],
) -> Iterator[tuple[str, str]]:
    """Title and text of each line."""
    yield "read", "nothing" if found["read"] is None else str(found["read"])
    if found["meaning"] is not None:
        yield "meaning", str(found["meaning"])
    yield "rule", str(found["rule"])
    if isinstance(stated := found["stated"], list):
        hidden = len(stated) - _MOST_STATED
        more = [f"and {hidden} before"] if hidden > 0 else []
        yield "stated", " · ".join([*stated[-_MOST_STATED:], *more]) or "nothing"
    if "gold" in found:
        yield "gold", str(found["gold"])
        yield "verdict", "right" if found["right"] else "wrong"
