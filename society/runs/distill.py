"""`society distill`: what is distilled of a stored run, and carrying that out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Any

from pydantic import ValidationError

from evals import choices, stored_run
from evals.arm_kinds import DISTILLED
from evals.overlap import QuestionOverlap, find_overlaps, normalize_question
from evals.tasks.base import TaskQuestion
from providers.errors import InvalidSettings
from providers.pricing import Prices
from providers.validation import format_errors
from society.config.load import ConfigError, list_problems, parse_value, set_key, split_key
from society.config.schema import Config
from society.costs import budget
from society.method.arms import Arm, build_arms
from society.method.connections import Connections
from society.method.distilling import Distillation, distill_society, plan_distillation
from society.method.experiment import Experiment, RunContext
from society.method.finetuning import find_faults
from society.method.progress import Observer, ProgressReporter
from society.method.questions import Questions
from society.runs.deployments import describe_standing
from society.runs.folder import RunFolder
from society.runs.question_file import QuestionFile, read_texts
from store.ledger import Store

# What the run has stored was asked with all its other settings.
_MAY_CHANGE = ("finetune", "datasets", "budget_usd", "prices")
_RAISE_BUDGET = "go on with a higher cap, such as --set budget_usd=20"
_SHOWN = 160
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class DistillChoice:
    """What the user asks for.

    The society of `arm` after `iteration` (default: that which answers for the run) is distilled
    into the arm `name`. It debates the run's training questions, `training` of them if that is
    given, and those of `file`, whose texts are in `field`. `settings` are KEY=VALUE.
    """

    name: str = DISTILLED.name
    arm: str | None = None
    iteration: int | None = None
    file: Path | None = None
    field: str | None = None
    training: int | None = None
    settings: Sequence[str] = ()


def plan_from_run(store: Store, choice: DistillChoice) -> Distillation:
    """The distillation that `choice` describes; nothing is asked, stored or spent.

    Raises `ConfigError` for an arm, an iteration or a file that cannot be distilled, for questions
    of the evaluation, and if the name is taken by another distillation.
    """
    if not _NAME.fullmatch(choice.name):
        raise ConfigError(
            f"--as {choice.name!r}: use up to 64 letters, digits, '.', '_' and '-', a letter or "
            "digit first"
        )
    run = stored_run.load_run(store)
    config = _change_settings(Config.from_json(run.config), choice.settings)
    arms = build_arms(config)
    source = _find_source(store, arms, choice)
    iteration = _find_iteration(store, source, choice)
    questions = Questions(config)
    if config.task.mastery is not None:
        # The debates take no stage of the curriculum; how answers are read is the same in all.
        questions.enter_stage(iteration + 1, len(questions.curriculum))
    experiment = Experiment(config, arms, questions)
    asked, origin = _gather_questions(questions, choice)
    stored = stored_run.read_arms(store)
    earlier = next((each for each in stored if each.name == choice.name), None)
    position = max((each.position for each in stored), default=0) + 1
    # The same place at every start, since the place is part of what is stored.
    if earlier is not None:
        position = earlier.position
    plan = plan_distillation(experiment, source, iteration, choice.name, position, asked, origin)
    if earlier is not None:
        _require_same(store, plan, earlier.kind)
    return plan


async def distill(folder: RunFolder, store: Store, plan: Distillation, observer: Observer) -> None:
    """Carry out a distillation, or go on with it; `store` is open for writing.

    Raises `InvalidSettings` if the model cannot be trained so, `providers.errors.RunError`,
    `finetune.errors.TuningFailed` or `store.errors.StoreError` when it has to stop. What is stored
    stays, and calling again resumes.
    """
    config = plan.experiment.config
    connections = Connections.open(config, folder.models)
    try:
        # Before the first call: debates would be paid in vain if nothing could learn from them.
        await _prepare_training(config, connections)
        # Batches go below the budget, so that a batch is budgeted call by call.
        if config.evaluation.batch:
            connections = connections.with_batches(store)
        connections = budget.budget_connections(connections, config, store, remedy=_RAISE_BUDGET)
        progress = ProgressReporter(observer, partial(budget.format_spent, connections))
        connections.listen(progress.note)
        run = RunContext(folder.name, plan.experiment, store, connections, progress)
        await distill_society(run, plan)
        prices = Prices(config.prices)
        progress.note(await describe_standing(folder.name, connections, store, prices))
    finally:
        await connections.close()


async def _prepare_training(config: Config, connections: Connections) -> None:
    """Raise before the first call if the student's base cannot be trained."""
    address = config.base_address(0)
    provider = connections[address]
    if faults := find_faults(config, provider):
        raise InvalidSettings("\n".join(f"{address}: {fault}" for fault in faults))
    await provider.prepare_tuning(config.by_arm[-1].finetune.hyperparameters("generator"))


def _change_settings(config: Config, settings: Sequence[str]) -> Config:
    table = json.loads(config.to_json())
    for setting in settings:
        key, equals, value = setting.partition("=")
        names = split_key(key)
        if not equals or names[0] not in _MAY_CHANGE:
            raise ConfigError(
                f"--set {setting!r}: a distillation may change keys of {', '.join(_MAY_CHANGE)}, "
                "such as finetune.generator_epochs=4; all else is the run's"
            )
        set_key(table, names, parse_value(value), f"--set {setting!r}")
    try:
        return Config.from_json(json.dumps(table))
    except ValidationError as error:
        raise ConfigError(list_problems("--set", format_errors(error))) from error


def _find_source(store: Store, arms: Sequence[Arm], choice: DistillChoice) -> Arm:
    name = choice.arm or stored_run.find_main_arm(store)
    source = next((arm for arm in arms if arm.name == name), None)
    if source is None:
        known = ", ".join(arm.name for arm in arms)
        raise ConfigError(f"--arm {name}: this run has no such society (arms: {known})")
    if choice.name in {arm.name for arm in arms}:
        raise ConfigError(f"--as {choice.name}: the run has an arm of that name; choose another")
    if source.agents == 1 or source.matched_to:
        raise ConfigError(
            f"--arm {name}: only a society whose agents can agree is distilled, and this arm is "
            f"{'one agent' if source.agents == 1 else 'a vote over samples of one model'}"
        )
    return source


def _find_iteration(store: Store, source: Arm, choice: DistillChoice) -> int:
    there = choices.list_evaluated(store, source.name)
    if choice.iteration is None and there:
        return choices.find_society(store, source.name)
    if choice.iteration in there:
        return int(choice.iteration)
    known = ", ".join(map(str, there)) or "none yet; let `society run` go on first"
    raise ConfigError(
        f"no society of {source.name} has been evaluated after iteration {choice.iteration or 0} "
        f"(there: {known})"
    )


def _gather_questions(
    questions: Questions, choice: DistillChoice
) -> tuple[list[TaskQuestion], dict[str, Any]]:
    """The questions that are debated, each once, and where they come from."""
    try:
        # A run that trains nothing has none of its own, so it takes those of a first iteration.
        own = questions.all_training_questions() or questions.training_questions(1)
        held_out = [q for each in questions.evaluation_sets for q in each.questions()]
        asked = list(own if choice.training is None else own[: choice.training])
        origin: dict[str, Any] = {"training": len(asked)}
        if choice.file is not None:
            file = QuestionFile(choice.file, choice.field)
            found = read_texts(questions.config, file, choice.name)
            threshold = questions.config.leakage.threshold
            if overlaps := find_overlaps(found, held_out, threshold):
                raise ConfigError(_describe_overlaps(choice.file, overlaps))
            # A question that came twice would weigh twice, and be debated twice.
            there = {normalize_question(question.text) for question in asked}
            fresh = [q for q in found if normalize_question(q.text) not in there]
            asked += fresh
            digest = hashlib.sha256(choice.file.read_bytes()).hexdigest()
            origin["file"] = {"name": choice.file.name, "sha256": digest, "questions": len(fresh)}
    except (ValueError, OSError) as error:
        raise error if isinstance(error, ConfigError) else ConfigError(str(error)) from error
    if not asked:
        raise ConfigError("there is no question to debate; give --training or --questions FILE")
    return asked, origin


def _describe_overlaps(file: Path, found: Sequence[QuestionOverlap]) -> str:
    held_out = {pair.evaluation.question_id for pair in found}
    first = shorten(found[0].evaluation.text, _SHOWN)
    return (
        f"{file} has {len(held_out)} of the run's evaluation questions, or nearly the same ones, "
        f"such as {first!r}; remove them from the file: what is evaluated must not be trained on"
    )


def _require_same(store: Store, plan: Distillation, kind: str) -> None:
    """Raise `ConfigError` if the arm's name is that of another distillation."""
    name = plan.student.name
    if kind != DISTILLED.name:
        raise ConfigError(f"--as {name}: the run has an arm of that name; choose another")
    [(text,)] = store.rows("SELECT settings::VARCHAR FROM arms WHERE arm = ?", [name])
    before, now = json.loads(text), json.loads(plan.record().settings)
    differing = [
        f"{key}: stored {before.get(key)!r}, now {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if differing:
        raise ConfigError(
            f"{name} of this run was distilled otherwise ({'; '.join(differing)}); give the same "
            "options to go on with it, or another name with --as"
        )
