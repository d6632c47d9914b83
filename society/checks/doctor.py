"""Preflight: whether an experiment can run, checked before anything is spent.

It asks providers for lists and descriptions only: no completion, no upload, no job, and it loads no
local model unless it is asked to. Only servers of `[serving]` are asked for a token and lent an
untrained adapter. Its estimates are meant to warn in time, so they are too high:

- a run takes its calls at `_CALLS_PER_S`, and `_HOURS_PER_TUNING` for every fine-tuning left;
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

from finetune.examples import is_held_out
from providers import registry
from providers.adapter_trial import AdapterMaker
from providers.errors import ProviderError
from providers.gathering import gather_or_cancel
from providers.preflight import (
    CHECKS,
    SCORES_REMEDY,
    preflight_answer_servers,
    preflight_cluster,
    preflight_model,
)
from providers.serving.preflight import preflight_managed
from providers.types import Finding, Need, PreflightReport
from society.checks import overlap
from society.checks.conversations import list_conversations, trains_all_answers
from society.checks.duration import describe_time
from society.checks.findings import format_finding, show_findings
from society.checks.sampling import describe_model_defaults
from society.checks.trackers import check_telemetry, check_trackers
from society.config.load import ConfigError, load_config
from society.config.schema import Config
from society.method.arms import is_tuned
from society.method.connections import plan_cluster, plan_serving
from society.method.debating import list_samplings
from society.method.experiment import Experiment, assemble, load_experiment
from society.method.finetuning import count_tuned_models, find_lacking, list_recipes
from society.runs.folder import RunFolder, keep_stored_rules
from store.errors import StoreError
from store.ledger import Store

_CALLS_PER_S = 2.0
_HOURS_PER_TUNING = 4.0
_BYTES_PER_TOKEN = 4
_TRAINING_COPIES = 4
"""Copies of the weights that a training job keeps: weights, two moments, and the new weights."""


class PreflightFailed(ConfigError):
    """The experiment cannot run as it is; the message has every error with its remedy."""


@dataclass(frozen=True, slots=True)
class PastWork:
    """What a run has already done: how many iterations are tuned, and whether it has finished."""

    tuned: int = 0
    finished: bool = False


def parse_skips(names: Sequence[str]) -> frozenset[str]:
    """The checks to skip. Raises `ConfigError` for an unknown name."""
    for name in names:
        if name not in CHECKS:
            there = ", ".join(CHECKS)
            raise ConfigError(f"--skip {name!r}: there is no such check; the checks are: {there}")
    return frozenset(names)


def preflight_file(
    source: str,
    overrides: Sequence[str],
    folder: RunFolder,
    *,
    allow_overlap: bool = False,
    skip: frozenset[str] = frozenset(),
    deep: bool = False,
) -> list[Finding]:
    """All findings about the experiment in `source`, which would become the run in `folder`.

    findings = preflight_file("demo", [], locate_run(Path("runs"), "demo"))
    """
    try:
        experiment = load_experiment(source, overrides)
    except ConfigError as error:
        return [
            Finding("error", str(error)),
            *preflight_despite_errors(source, overrides, folder, skip, deep),
        ]
    return [
        *check_questions(experiment, folder, allow_overlap),
        *preflight_config(experiment, folder, skip=skip, deep=deep),
    ]


def preflight_despite_errors(
    source: str,
    overrides: Sequence[str],
    folder: RunFolder,
    skip: frozenset[str],
    deep: bool = False,
) -> list[Finding]:
    """Findings about the models of an experiment that has another error, such as missing data.

    Nothing if the file itself is not an experiment.
    """
    try:
        experiment = assemble(load_config(source, overrides))
        return preflight_config(experiment, folder, skip=skip, deep=deep)
    except (ValueError, ProviderError):
        return []


def preflight_config(
    experiment: Experiment,
    folder: RunFolder,
    runs: int = 1,
    *,
    skip: frozenset[str] = frozenset(),
    deep: bool = False,
) -> list[Finding]:
    """Findings about an experiment's models and about the machine, without the checks in `skip`.

    `runs` runs like this one will share the disk. `deep` loads local models and tries them. A
    provider's error becomes a finding.
    """
    config = experiment.config
    past = read_past_work(config, folder)
    reports = asyncio.run(_preflight_addresses(experiment, folder, past, skip, deep))
    findings = [
        replace(found, text=f"{address.removesuffix(':')}: {found.text}")
        for address, report in reports
        for found in (
            *report.findings,
            *_check_training(experiment, address, report, past),
            *_check_diversity(config, address, report),
        )
    ]
    findings += [*check_trackers(config), *check_telemetry(config)]
    findings += describe_model_defaults(experiment)
    findings += describe_time(experiment, past.tuned, [found for _, found in reports])
    findings += _check_disk(experiment, folder, past, [found for _, found in reports], runs)
    kept = [found for found in findings if found.check not in skip]
    if skip:
        kept.append(Finding("ok", f"skipped, as requested: {', '.join(sorted(skip))}"))
    return kept


def require_ready(
    experiment: Experiment, folder: RunFolder, stream: TextIO, skip: frozenset[str] = frozenset()
) -> None:
    """Print warnings; raise `PreflightFailed` for errors. A finished run is not checked."""
    if not read_past_work(experiment.config, folder).finished:
        show_findings(describe_model_defaults(experiment), stream)
        require_no_errors(preflight_config(experiment, folder, skip=skip), stream)


def require_no_errors(findings: Sequence[Finding], stream: TextIO) -> None:
    """Print warnings; raise `PreflightFailed` with all errors and how to skip their checks."""
    show_findings([found for found in findings if found.level == "warning"], stream)
    errors = [found for found in findings if found.level == "error"]
    if not errors:
        return
    lines = "\n".join(
        f"  {format_finding(found)}" + (f"\n    → {found.remedy}" if found.remedy else "")
        for found in errors
    )
    checks = sorted({found.check for found in errors if found.check})
    if checks:
        lines += "\nif a check is wrong, skip it: " + " ".join(f"--skip {c}" for c in checks)
    raise PreflightFailed(f"nothing was started, {len(errors)} problem(s):\n{lines}")


def read_past_work(config: Config, folder: RunFolder) -> PastWork:
    """How much of this experiment the run in `folder` has done; nothing if it cannot be read."""
    if not folder.database.is_file():
        return PastWork()
    try:
        with Store.open(folder.database, read_only=True) as store:
            run, jobs = store.run(), store.jobs()
    except StoreError:
        # Opening the run for writing will report the error.
        return PastWork()
    config = keep_stored_rules(config, run)
    each = count_tuned_models(config)
    over = [job.iteration for job in jobs if job.status in ("succeeded", "skipped")]
    tuned = sum(over.count(k) >= each for k in range(1, config.iterations + 1))
    finished = run is not None and run.finished_at is not None and run.config == config.to_json()
    return PastWork(tuned, finished)


def check_questions(
    experiment: Experiment, folder: RunFolder, allow_overlap: bool
) -> Iterator[Finding]:
    """The size of the experiment, and whether it trains on evaluation questions."""
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
        text = f"{len(allowed)} pairs of similar questions are allowed to overlap"
        yield Finding("warning", text)
    else:
        yield Finding("ok", "no evaluation question is trained on")


async def _preflight_addresses(
    experiment: Experiment, folder: RunFolder, past: PastWork, skip: frozenset[str], deep: bool
) -> list[tuple[str, PreflightReport]]:
    config = experiment.config
    cluster = plan_cluster(config)

    async def one(address: str) -> tuple[str, PreflightReport]:
        settings = config.settings_of(address)
        need = _describe_need(experiment, past, is_tuned(config, address), skip)
        shown = list_conversations(experiment, address)
        elsewhere = cluster is not None and registry.trains_on_clusters(address)
        need = replace(need, deep=deep, conversations=shown, trains_elsewhere=elsewhere)
        # Servers answer for `model` in its place, and have their own reports.
        if config.serving is None or address != config.model:
            need = replace(need, samplings=list_samplings(config, address))
        recipes = list_recipes(config)
        return address, await preflight_model(address, settings, folder.models, need, recipes)

    async def servers() -> list[tuple[str, PreflightReport]]:
        if config.serving is None:
            return []
        need = _describe_need(experiment, past, is_tuned(config, config.model), skip)
        need = replace(need, samplings=list_samplings(config, config.model))
        trainer, named = config.settings_of(config.model), config.serving.list_servers()
        if (managed := plan_serving(config)) is not None:
            return [await preflight_managed(managed, config.model, trainer, folder.models, need)]
        maker = AdapterMaker(config.model, trainer, list_recipes(config))
        return await preflight_answer_servers(named, folder.models, need, maker)

    async def nodes(address: str) -> tuple[str, PreflightReport]:
        settings, recipes = config.settings_of(address), list_recipes(config)
        assert cluster is not None
        return address, await preflight_cluster(address, settings, cluster, folder.models, recipes)

    distributed = cluster is not None and config.iterations > past.tuned
    trained = [each for each in config.addresses if distributed and is_tuned(config, each)]
    # All addresses at the same time: a server that does not answer costs one time-out, not several.
    models, training, answering = await asyncio.gather(
        gather_or_cancel([one(address) for address in config.addresses]),
        gather_or_cancel([nodes(address) for address in trained]),
        servers(),
    )
    return [*models, *training, *answering]


def _describe_need(
    experiment: Experiment, past: PastWork, tunes: bool, skip: frozenset[str]
) -> Need:
    config = experiment.config
    return Need(
        finetune=tunes and config.iterations > past.tuned,
        ends_at=estimate_end(experiment, past, datetime.now(UTC)),
        adapters=count_tuned_models(config) if tunes else 0,
        examples=_count_most_examples(experiment, past) if tunes else 0,
        sampling_seed=True,
        batches=config.evaluation.batch,
        trains_all=config.iterations > past.tuned and trains_all_answers(experiment),
        skip=skip,
    )


def _check_training(
    experiment: Experiment, address: str, report: PreflightReport, past: PastWork
) -> Iterator[Finding]:
    config, capabilities = experiment.config, report.capabilities
    if capabilities is None or not is_tuned(config, address) or config.iterations <= past.tuned:
        return
    if not capabilities.finetune:
        # A model that cannot be reached has its own error; this one would send the user astray.
        if all(found.level != "error" for found in report.findings):
            yield Finding(
                "error",
                "cannot fine-tune",
                "set iterations = 0, or choose another model",
                "fine-tuning",
            )
        return
    if lacking := find_lacking(config, capabilities):
        yield Finding("error", "; ".join(lacking), check="recipe")
        return
    minimum, questions = capabilities.min_examples, config.train.questions
    most = _count_most_examples(experiment, past)
    if share := config.finetune.validation_share:
        trained = _count_trained_questions(experiment, past)
        # A hash of the id decides which questions are held out, so a small share may hold out none.
        if trained == questions:
            yield Finding(
                "warning",
                f"finetune.validation_share = {share} of {questions} training questions rounds to "
                "none: no validation loss will be measured",
                "set a larger share, or more train.questions",
                "recipe",
            )
    # Vendors refuse a file with fewer examples only after the upload.
    if most < minimum:
        yield Finding(
            "error",
            f"a job needs at least {minimum} examples, and no dataset can have that many: an "
            f"iteration has {questions} training questions"
            + ("" if most == questions else f", of which {_list_bounds(config)} leaves {most}"),
            f"set train.questions = {2 * minimum} or more",
            "examples",
        )
    # Agents use only the questions they agree on or correct, often about half of them.
    elif most < 2 * minimum:
        yield Finding(
            "warning",
            f"a job needs at least {minimum} examples, and a dataset can have at most {most}: an "
            "agent with fewer keeps its old model",
            f"set train.questions = {4 * minimum} or more",
            "examples",
        )


def _count_most_examples(experiment: Experiment, past: PastWork) -> int:
    """How many examples a job can have at most."""
    config = experiment.config
    most = min(config.train.questions, config.datasets.max_examples or config.train.questions)
    # After the last training there are no questions of a next one.
    if config.finetune.validation_share and config.iterations > past.tuned:
        most = min(most, _count_trained_questions(experiment, past))
    return most


def _count_trained_questions(experiment: Experiment, past: PastWork) -> int:
    """How many training questions of the next iteration are not held out for validation."""
    share = experiment.config.finetune.validation_share
    return max(
        sum(not is_held_out(question.question_id, share) for question in asked)
        for _, asked in experiment.questions.foresee(past.tuned + 1)
    )


def _list_bounds(config: Config) -> str:
    section, share = config.datasets, config.finetune.validation_share
    found = [f"datasets.max_examples = {section.max_examples}"] if section.max_examples else []
    return " and ".join(found + ([f"finetune.validation_share = {share}"] if share else []))


def _check_diversity(config: Config, address: str, report: PreflightReport) -> Iterator[Finding]:
    """Whether an agent's model supports the requested diversity measures."""
    asked = [measure for measure in config.diversity.measures if measure != "embedding"]
    capabilities = report.capabilities
    # The summarizer's model is not compared with any other.
    if not asked or capabilities is None or address not in config.agent_models:
        return
    if not capabilities.score and not capabilities.divergences:
        yield Finding(
            "warning",
            f"gives no log-probabilities of a given text: diversity by {', '.join(asked)} will "
            "have no value",
            f"{SCORES_REMEDY}, or remove these measures",
            "diversity",
        )
    elif not capabilities.divergences and {"kl", "kl_base"} & set(asked):
        yield Finding(
            "warning",
            "gives probabilities of given texts only: divergences are estimated from sampled "
            "answers, and greedy answers have none",
            check="diversity",
        )


def estimate_end(experiment: Experiment, past: PastWork, now: datetime) -> datetime:
    """The latest end of the run, by the assumptions at the top of this file."""
    hours = _HOURS_PER_TUNING * (experiment.config.iterations - past.tuned)
    return now + timedelta(hours=hours, seconds=_count_calls(experiment) / _CALLS_PER_S)


def _count_calls(experiment: Experiment) -> int:
    config = experiment.config
    evaluated = sum(each.count for each in experiment.questions.evaluation_sets)
    decodings = len(config.evaluation.decodings)
    return sum(
        arm.iterations * config.train.questions * arm.calls(arm.train_agents)
        + (arm.iterations + 1) * decodings * evaluated * arm.calls()
        for arm in experiment.arms
    )


def _check_disk(
    experiment: Experiment,
    folder: RunFolder,
    past: PastWork,
    reports: Sequence[PreflightReport],
    runs: int,
) -> Iterator[Finding]:
    config = experiment.config
    sizes = [found.artifact_bytes for found in reports]
    largest = max((size for size in sizes if size is not None), default=0)
    left = config.iterations - past.tuned
    models = (
        runs * largest * (count_tuned_models(config) * left + (_TRAINING_COPIES if left else 0))
    )
    each = 2 * config.society.rounds * config.sampling.longest * _BYTES_PER_TOKEN
    stored = folder.database.stat().st_size if folder.database.is_file() else 0
    # What is on disk already needs no room any more.
    database = runs * max(0, _count_calls(experiment) * each - stored)
    free = shutil.disk_usage(_find_existing_folder(folder.path)).free
    text = (
        f"disk: {_format_bytes(free)} free for at most {_format_bytes(database)} of transcripts "
        f"and {_format_bytes(models)} of tuned models"
        + (" (and models of unknown size)" if None in sizes else "")
        + (f", for {runs} runs like this one" if runs > 1 else "")
    )
    remedy = "free some space, or put the run on another disk with --runs"
    # A run can start again after its database has outgrown the disk, but a training job that runs
    # out of room loses hours: hence the error for models and the warning for transcripts.
    if free < models:
        yield Finding("error", text, remedy, "disk")
    elif free < models + database:
        yield Finding("warning", text, remedy, "disk")
    else:
        yield Finding("ok", text, check="disk")


def _find_existing_folder(path: Path) -> Path:
    """The nearest existing folder at or above `path`."""
    here = path.absolute()
    while not here.is_dir():
        here = here.parent
    return here


def _format_bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
