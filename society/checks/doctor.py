"""Whether an experiment can be run, found out before anything is spent.

Only lists and descriptions are asked for: no completion, no upload, no job, and no local model is
loaded. What is estimated here is meant to warn in time, and errs on the side of too much:

- a run ends after its calls at `_CALLS_PER_S` and `_HOURS_PER_TUNING` for every fine-tuning left;
- the database takes `_BYTES_PER_TOKEN` for every token that every call may read and write.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TextIO

from rich.text import Text

from finetune.examples import is_held_out
from providers.errors import ProviderError
from providers.preflight import CHECKS, preflight_answer_server, preflight_model
from providers.types import Finding, Level, Need, PreflightReport
from society.checks import overlap
from society.config.load import ConfigError, load_config
from society.config.schema import Config
from society.method.agents import ROLES
from society.method.arms import is_tuned
from society.method.experiment import Experiment, assemble, load_experiment
from society.method.finetuning import count_tuned, find_validation_fault
from society.runs.folder import RunFolder, as_started
from society.terminal.output import Screen, plain
from store.errors import StoreError
from store.ledger import Store

_CALLS_PER_S = 2.0
_HOURS_PER_TUNING = 4.0
_BYTES_PER_TOKEN = 4
_TRAINING_COPIES = 4
"""What a job keeps beside its result while it runs: weights, two moments and their successor."""
_STYLES: dict[Level, str] = {"ok": "green", "warning": "yellow", "error": "bold red"}
_WIDTH = len("warning  ")


class Unfit(ConfigError):
    """The experiment cannot be run as it is; the message holds every error with its remedy."""


@dataclass(frozen=True, slots=True)
class Past:
    """What a run has behind it: how many iterations are tuned, and whether nothing is left."""

    tuned: int = 0
    finished: bool = False


def chosen(names: Sequence[str]) -> frozenset[str]:
    """The checks to leave out. Raises `ConfigError` for a name that none has."""
    for name in names:
        if name not in CHECKS:
            there = ", ".join(CHECKS)
            raise ConfigError(f"--skip {name!r}: there is no such check; there are: {there}")
    return frozenset(names)


def examine_file(
    source: str,
    overrides: Sequence[str],
    folder: RunFolder,
    *,
    allow_overlap: bool = False,
    skip: frozenset[str] = frozenset(),
) -> list[Finding]:
    """Everything about the experiment in `source` that would become the run in `folder`."""
    try:
        experiment = load_experiment(source, overrides)
    except ConfigError as error:
        return [Finding("error", str(error)), *despite(source, overrides, folder, skip)]
    return [*questions(experiment, folder, allow_overlap), *examine(experiment, folder, skip=skip)]


def despite(
    source: str, overrides: Sequence[str], folder: RunFolder, skip: frozenset[str]
) -> list[Finding]:
    """What can be said of the models of an experiment that has something else wrong with it, such
    as questions that cannot be had; nothing where the file itself makes no experiment."""
    try:
        return examine(assemble(load_config(source, overrides)), folder, skip=skip)
    except (ValueError, ProviderError):
        return []


def examine(
    experiment: Experiment, folder: RunFolder, runs: int = 1, *, skip: frozenset[str] = frozenset()
) -> list[Finding]:
    """Everything about an experiment's models and the machine, whose disk so many such `runs` will
    share, but for the checks in `skip`. Raises nothing of a provider's."""
    config = experiment.config
    past = past_of(config, folder)
    reports = asyncio.run(_models(experiment, folder, past, skip))
    findings = [
        replace(found, text=f"{address.removesuffix(':')}: {found.text}")
        for address, report in reports
        for found in (
            *report.findings,
            *_capable(experiment, address, report, past),
            *_measurable(config, address, report),
        )
    ]
    findings += _disk(experiment, folder, past, [found for _, found in reports], runs)
    kept = [found for found in findings if found.check not in skip]
    if skip:
        kept.append(Finding("ok", f"left out, as you ask: {', '.join(sorted(skip))}"))
    return kept


def before_run(
    experiment: Experiment, folder: RunFolder, stream: TextIO, skip: frozenset[str] = frozenset()
) -> None:
    """Print the warnings; raise `Unfit` for errors. A finished run is let through unseen."""
    if not past_of(experiment.config, folder).finished:
        require_fit(examine(experiment, folder, skip=skip), stream)


def require_fit(findings: Sequence[Finding], stream: TextIO) -> None:
    """Print the warnings; raise `Unfit` with all errors, and how to leave their checks out."""
    show([found for found in findings if found.level == "warning"], stream)
    errors = [found for found in findings if found.level == "error"]
    if not errors:
        return
    told = "\n".join(
        f"  {_named(found)}" + (f"\n    → {found.remedy}" if found.remedy else "")
        for found in errors
    )
    checks = sorted({found.check for found in errors if found.check})
    if checks:
        told += "\nwhat you know better can be left out: " + " ".join(f"--skip {c}" for c in checks)
    raise Unfit(f"nothing was started, {len(errors)} problem(s):\n{told}")


def show(findings: Sequence[Finding], stream: TextIO) -> None:
    """Print findings with their remedies: in colours on a terminal, as plain text elsewhere."""
    console = Screen(stream, soft_wrap=True)
    indent = " " * _WIDTH
    for found in findings:
        text = plain(_named(found)).replace("\n", f"\n{indent}")
        console.print(Text(f"{found.level:<{_WIDTH}}", _STYLES[found.level]) + Text(text))
        if found.remedy:
            console.print(Text(f"{indent}→ {plain(found.remedy)}", "dim"))


def _named(found: Finding) -> str:
    """What was found, and by which check where that matters."""
    return found.text if found.level == "ok" or not found.check else f"{found.text} [{found.check}]"


def past_of(config: Config, folder: RunFolder) -> Past:
    """What the run in `folder` has done of this experiment; nothing where it cannot be read."""
    if not folder.database.is_file():
        return Past()
    try:
        with Store.open(folder.database, read_only=True) as store:
            run, jobs = store.run(), store.jobs()
    except StoreError:
        # Opening it for writing will say what is wrong with it.
        return Past()
    config = as_started(config, run)
    each = count_tuned(config)
    over = [job.iteration for job in jobs if job.status in ("succeeded", "skipped")]
    tuned = sum(over.count(k) >= each for k in range(1, config.iterations + 1))
    finished = run is not None and run.finished_at is not None and run.config == config.to_json()
    return Past(tuned, finished)


def questions(experiment: Experiment, folder: RunFolder, allow_overlap: bool) -> Iterator[Finding]:
    """What the experiment asks, and whether it trains on what it is evaluated on."""
    config, section = experiment.config, experiment.config.society
    yield Finding(
        "ok",
        f"the experiment: {section.agents} agents, rounds: {section.rounds}, iterations: "
        f"{config.iterations}; {len(experiment.questions.all_training_questions())} questions to "
        f"train on, {config.evaluation.questions} to evaluate",
    )
    try:
        allowed = overlap.check_overlap(experiment, folder.database, allow=allow_overlap)
    except overlap.LeakageFound as error:
        yield Finding("error", str(error))
        return
    if allowed:
        yield Finding("warning", f"{len(allowed)} pairs of alike questions are allowed to overlap")
    else:
        yield Finding("ok", "no evaluation question is trained on")


async def _models(
    experiment: Experiment, folder: RunFolder, past: Past, skip: frozenset[str]
) -> list[tuple[str, PreflightReport]]:
    config = experiment.config

    async def one(address: str) -> tuple[str, PreflightReport]:
        settings = config.settings_of(address)
        need = _need(experiment, past, is_tuned(config, address), skip)
        recipes = [config.finetune.hyperparameters(role) for role in ROLES]
        how = max(recipes, key=lambda recipe: recipe.epochs)
        return address, await preflight_model(address, settings, folder.models, need, how)

    async def server() -> list[tuple[str, PreflightReport]]:
        if config.serving is None:
            return []
        answers = config.serving.answer_server()
        need = _need(experiment, past, is_tuned(config, config.model), skip)
        found = await preflight_answer_server(answers, folder.models, need)
        return [(answers.address, found)]

    models, servers = await asyncio.gather(
        asyncio.gather(*(one(address) for address in config.addresses)), server()
    )
    return [*models, *servers]


def _need(experiment: Experiment, past: Past, tunes: bool, skip: frozenset[str]) -> Need:
    config = experiment.config
    return Need(
        finetune=tunes and config.iterations > past.tuned,
        ends_at=ends_at(experiment, past, datetime.now(UTC)),
        adapters=count_tuned(config) if tunes else 0,
        sampling_seed=True,
        batches=config.evaluation.batch,
        skip=skip,
    )


def _capable(
    experiment: Experiment, address: str, report: PreflightReport, past: Past
) -> Iterator[Finding]:
    config, capabilities = experiment.config, report.capabilities
    if capabilities is None or not is_tuned(config, address) or config.iterations <= past.tuned:
        return
    if not capabilities.finetune:
        if all(found.level != "error" for found in report.findings):
            yield Finding(
                "error",
                "cannot fine-tune",
                "set iterations = 0, or choose another model",
                "fine-tuning",
            )
        return
    if fault := find_validation_fault(config, capabilities):
        yield Finding("error", fault, check="recipe")
        return
    minimum, questions = capabilities.min_examples, config.train.questions
    most = min(questions, config.datasets.max_examples or questions)
    if share := config.finetune.validation_share:
        learnt = _learnt(experiment, past)
        if learnt == questions:
            yield Finding(
                "warning",
                f"finetune.validation_share = {share} of {questions} training questions is none: "
                "nothing will be measured",
                "set a larger share, or more train.questions",
                "recipe",
            )
        most = min(most, learnt)
    if most < minimum:
        yield Finding(
            "error",
            f"no dataset can have the {minimum} examples that a job takes at least: there are "
            f"{questions} training questions in an iteration"
            + ("" if most == questions else f", of which {_bounds(config)} leaves {most}"),
            f"set train.questions = {2 * minimum} or more",
            "examples",
        )
    elif most < 2 * minimum:
        yield Finding(
            "warning",
            f"a job takes at least {minimum} examples, and {most} is the most there can be: an "
            "agent with fewer keeps its old model",
            f"set train.questions = {4 * minimum} or more",
            "examples",
        )


def _learnt(experiment: Experiment, past: Past) -> int:
    """How many training questions of the next iteration are not held out to be measured."""
    share = experiment.config.finetune.validation_share
    asked = experiment.questions.training_questions(past.tuned + 1)
    return sum(not is_held_out(question.question_id, share) for question in asked)


def _bounds(config: Config) -> str:
    section, share = config.datasets, config.finetune.validation_share
    found = [f"datasets.max_examples = {section.max_examples}"] if section.max_examples else []
    return " and ".join(found + ([f"finetune.validation_share = {share}"] if share else []))


def _measurable(config: Config, address: str, report: PreflightReport) -> Iterator[Finding]:
    """Whether the diversity that is asked for can be had of an agent's model."""
    asked = [measure for measure in config.diversity.measures if measure != "embedding"]
    capabilities = report.capabilities
    if not asked or capabilities is None or address not in config.agent_models:
        return
    if not capabilities.score and not capabilities.divergences:
        yield Finding(
            "warning",
            f"gives no log-probabilities of a given text: diversity by {', '.join(asked)} will "
            "have no value",
            'set score = "vllm" in [provider] if the server is vLLM, or leave these measures out',
            "diversity",
        )
    elif not capabilities.divergences and {"kl", "kl_base"} & set(asked):
        yield Finding(
            "warning",
            "tells only the probabilities of given texts: divergences are estimated from sampled "
            "answers, and there are none of greedy ones",
            check="diversity",
        )


def ends_at(experiment: Experiment, past: Past, now: datetime) -> datetime:
    """When the run will be over at the latest, by the assumptions at the top."""
    hours = _HOURS_PER_TUNING * (experiment.config.iterations - past.tuned)
    return now + timedelta(hours=hours, seconds=_calls(experiment) / _CALLS_PER_S)


def _calls(experiment: Experiment) -> int:
    config = experiment.config
    evaluated = sum(each.count for each in experiment.questions.evaluation_sets)
    decodings = len(config.evaluation.decodings)
    return sum(
        arm.iterations * config.train.questions * arm.calls(arm.train_agents)
        + (arm.iterations + 1) * decodings * evaluated * arm.calls()
        for arm in experiment.arms
    )


def _disk(
    experiment: Experiment,
    folder: RunFolder,
    past: Past,
    reports: Sequence[PreflightReport],
    runs: int,
) -> Iterator[Finding]:
    config = experiment.config
    sizes = [found.artifact_bytes for found in reports]
    largest = max((size for size in sizes if size is not None), default=0)
    left = config.iterations - past.tuned
    models = runs * largest * (count_tuned(config) * left + (_TRAINING_COPIES if left else 0))
    each = 2 * config.society.rounds * config.sampling.max_tokens * _BYTES_PER_TOKEN
    database = runs * max(0, _calls(experiment) * each - _bytes_of(folder.database))
    free = shutil.disk_usage(_nearest(folder.path)).free
    text = (
        f"disk: {_size(free)} free for at most {_size(database)} of transcripts and "
        f"{_size(models)} of tuned models"
        + (" (and models of a size that is not known)" if None in sizes else "")
        + (f", in {runs} runs like this one" if runs > 1 else "")
    )
    remedy = "free some space, or put the run elsewhere with --runs"
    if free < models:
        yield Finding("error", text, remedy, "disk")
    elif free < models + database:
        yield Finding("warning", text, remedy, "disk")
    else:
        yield Finding("ok", text, check="disk")


def _bytes_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _nearest(path: Path) -> Path:
    """The first folder above `path` that is there already."""
    here = path.absolute()
    while not here.is_dir():
        here = here.parent
    return here


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
