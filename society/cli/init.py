"""The command that writes an experiment file for the user's data and model."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from society.cli.app import RUNS, Runs, app

if TYPE_CHECKING:
    from providers.base import FileFacts
    from society.config.draft import Draft

_MODEL = "embedded:"


@app.command("init")
def write_experiment(
    file: Annotated[Path, typer.Argument(help="The experiment file to write.")] = Path(
        "experiment.toml"
    ),
    model: Annotated[
        str | None,
        typer.Option(
            help="Base model: an address SCHEME:NAME, or a folder, .gguf file or hub name.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="File or folder with your questions; without it the society learns sums.",
            show_default=False,
        ),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Server that answers for the model with the adapters trained here.",
            show_default=False,
        ),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            min=0.01, help="Cap in US dollars for a model that costs.", show_default=False
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing; take the defaults.")] = False,
    runs: Runs = RUNS,
) -> None:
    """Write an experiment that fits your questions and your model, and check it."""
    from society.cli.errors import report_errors

    with report_errors():
        from society.config.load import ConfigError

        if file.suffix != ".toml":
            raise ConfigError(f"{str(file)!r} is no .toml file; give the experiment that suffix")
        # An experiment is work of the user's; a stored run also holds on to its settings.
        if file.exists():
            raise ConfigError(f"{file} is there already; remove it, or name another file")
        # A script gets the defaults: it could not answer.
        asks = not yes and sys.stdin.isatty()
        make = _ask_for_missing if asks else _make_draft
        _write_and_check(file, make(model, task, server, budget), runs)


def _write_and_check(file: Path, draft: Draft, runs: Path) -> None:
    """Write the file, say what was found, and check it as `society doctor` does."""
    from society.checks import doctor
    from society.checks.findings import show_findings
    from society.config.draft import place_draft, write_draft
    from society.config.load import ConfigError
    from society.runs.folder import locate_run
    from society.terminal.opening_display import show_openings
    from society.terminal.output import say

    try:
        file.write_text(write_draft(place_draft(draft, file.parent)), "utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror or error}") from error
    say(f"wrote {file} for {draft.model}")
    for line in draft.notes:
        say(f"  {line}")
    say("checking it …")
    # Only now is it known whether data, model and sizes go together.
    with show_openings(sys.stderr):
        findings = doctor.preflight_file(str(file), (), locate_run(runs, file.stem))
    ready = show_findings(findings, sys.stdout)
    say("")
    if not ready:
        say(f"correct {file}, then check it again: society doctor {file}")
        return
    say(f"what it will take: society cost {file}")
    say(f"start it:          society run {file}")


def _make_draft(
    model: str | None, task: str | None, server: str | None, budget: float | None
) -> Draft:
    from society.config.draft import Draft, complete_address
    from society.config.load import ConfigError
    from society.config.question_data import inspect_data

    address = complete_address(model or _MODEL)
    data = None if task is None else inspect_data(task)
    draft = Draft(address, data, server, budget, _read_facts(address))
    if budget is not None and not draft.costs:
        raise ConfigError(f"--budget {budget:g}: {address} costs nothing; leave --budget out")
    return draft


def _read_facts(address: str) -> FileFacts:
    """What the model's files say; nothing where the check afterwards will name the fault."""
    from providers import registry
    from providers.base import FileFacts
    from providers.errors import ProviderError

    try:
        return registry.read_facts(address, {})
    except ProviderError:
        return FileFacts()


def _ask_for_missing(
    model: str | None, task: str | None, server: str | None, budget: float | None
) -> Draft:
    """The draft, after questions about what the command line does not say."""
    if model is None:
        model = typer.prompt("Base model (SCHEME:NAME, a folder, .gguf file or hub name)", _MODEL)
    if task is None:
        task = typer.prompt("File with your questions (empty: sums)", "", show_default=False)
    draft = _make_draft(model, task or None, server, budget)
    if draft.costs and budget is None:
        asked = typer.prompt("Spend at most so many US dollars", default=10.0, type=float)
        return replace(draft, budget_usd=asked)
    return draft
