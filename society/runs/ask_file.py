"""All questions of a file, asked of a stored run's society; the answers become a run of their own.

The debates are an evaluation of that society: they share batches and limits, a start after a kill
asks only what has no answer yet, and everything that reads runs reads the new one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from functools import partial

from evals import stored_run, tasks
from evals.overlap import normalize_question
from evals.tasks.base import TaskQuestion
from providers.errors import InvalidSettings
from providers.pricing import Prices
from society.config.load import ConfigError
from society.config.schema import Config
from society.costs import budget
from society.method.agents import Society
from society.method.arms import main_arm
from society.method.connections import Connections
from society.method.debating import debate_questions, require_sampling, store_questions
from society.method.experiment import Experiment, RunContext, require_prices
from society.method.finetuning import load_society
from society.method.progress import Observer, ProgressReporter
from society.method.questions import Questions
from society.runs.ask import find_iteration, require_free_server
from society.runs.folder import RunFolder, start_run
from society.runs.prompts import keep_templates
from society.runs.question_file import QuestionFile, read_questions
from store.ledger import Store
from store.records import Model, StageKey, StoredArm, utc_now

LABEL = "asked"
"""Begins the ids of the questions."""
_RAISE_BUDGET = "go on with a higher --budget"


@dataclass(frozen=True, slots=True)
class FilePlan:
    """What is asked of which society: that of `iteration` of the run `source`.

    `experiment` is that of the new run, with one arm. `gold_field` is where gold answers are from,
    None without any; `trained_on` counts the questions that the run has debated in training.
    """

    source: RunFolder
    iteration: int
    experiment: Experiment
    questions: Sequence[TaskQuestion]
    gold_field: str | None
    trained_on: int

    @property
    def agents(self) -> int:
        """How many agents debate."""
        return self.experiment.arms[0].agents

    @property
    def stage(self) -> StageKey:
        """The debates of the new run."""
        return StageKey(self.iteration, "eval", self.experiment.arms[0].name, "sampled")

    def record(self) -> StoredArm:
        """The arm as the new run stores it, with all that tells its questions from others."""
        stored = self.experiment.arms[0].record()
        asked = json.dumps([astuple(replace(q, meta={})) for q in self.questions])
        origin = {
            "run": self.source.name,
            "iteration": self.iteration,
            "questions": len(self.questions),
            "sha256": hashlib.sha256(asked.encode()).hexdigest(),
        }
        return replace(stored, settings=json.dumps({**json.loads(stored.settings), LABEL: origin}))


def plan_questions(
    source: RunFolder,
    file: QuestionFile,
    *,
    iteration: int | None = None,
    budget_usd: float | None = None,
) -> FilePlan:
    """What it takes to ask the questions of `file`; nothing is asked, stored or spent.

    Raises `ConfigError` for a file that cannot be read or an iteration without a society, and
    `NothingStored` for a database without a run.
    """
    with Store.open(source.database, read_only=True) as store:
        config = Config.from_json(stored_run.load_run(store).config)
        require_free_server(source, config, store)
        found = find_iteration(store, config, iteration)
        texts = store.rows("SELECT question FROM questions WHERE split = 'train'")
    trained = {normalize_question(str(text)) for (text,) in texts}
    try:
        task = tasks.load_task(config.task.name, config.task.options)
        questions, gold = read_questions(config, file, task, LABEL)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    arm = main_arm(config)
    asked = _change_config(config, len(questions), budget_usd)
    return FilePlan(
        source,
        found,
        Experiment(asked, (arm,), Questions(asked)),
        questions,
        gold,
        sum(normalize_question(question.text) in trained for question in questions),
    )


def _change_config(config: Config, questions: int, budget_usd: float | None) -> Config:
    """The experiment of the new run: the same society, asked once and not trained."""
    evaluation = config.evaluation.model_copy(
        update={"questions": questions, "decodings": ("sampled",)}
    )
    return config.model_copy(
        update={
            "evaluation": evaluation,
            "diversity": config.diversity.model_copy(update={"measures": ()}),
            "zero_shot": (),
            "tracking": (),
            "budget_usd": budget_usd,
        }
    )


def open_answers(folder: RunFolder, plan: FilePlan, tell: Callable[[str], None]) -> Store:
    """The run that keeps the answers, made or opened again for the same questions.

    Raises `ConfigError` if a run of that name holds anything else or a budget lacks prices, and
    the store's errors.
    """
    if folder.database.is_file():
        # Before anything is written: a run that was named by mistake must stay as it is.
        with Store.open(folder.database, read_only=True) as store:
            _require_same(folder, store, plan)
    else:
        _require_prices(plan)
    store = start_run(folder, plan.experiment.config, tell)
    try:
        store.write(plan.record())
    except BaseException:
        store.close()
        raise
    return store


def _require_prices(plan: FilePlan) -> None:
    """Raise `ConfigError` if --budget could not be kept, before a run is made for the answers."""
    config = plan.experiment.config
    try:
        require_prices(config, Prices(config.prices))
    except InvalidSettings as error:
        raise ConfigError(
            f"{error}\nWrite that into the experiment file of run {plan.source.name!r} and let "
            "`society run` read it again, or leave out --budget"
        ) from error


def _require_same(folder: RunFolder, store: Store, plan: FilePlan) -> None:
    stored = store.run()
    rows = store.rows("SELECT settings::VARCHAR FROM arms")
    if stored is None or (not rows and stored.config == plan.experiment.config.to_json()):
        return
    settings = [json.loads(text) for (text,) in rows]
    if len(settings) != 1 or LABEL not in settings[0]:
        raise ConfigError(
            f"--store {folder.name}: {folder.path} is a run of its own, and the answers would "
            "change it; choose another name"
        )
    before, now = settings[0][LABEL], json.loads(plan.record().settings)[LABEL]
    if before != now:
        said = "the society of iteration {iteration} of run {run} to {questions} questions"
        other = " (others)" if said.format(**before) == said.format(**now) else ""
        raise ConfigError(
            f"--store {folder.name}: it has the answers of {said.format(**before)}, and now "
            f"{said.format(**now)}{other} would be asked; choose another name"
        )


async def ask_questions(
    folder: RunFolder, store: Store, plan: FilePlan, progress: Observer
) -> None:
    """Ask what has no answer yet; `store` is what `open_answers` has returned.

    Raises `providers.errors.RunError` or `store.errors.StoreError` when it has to stop. What is
    stored stays, and calling again goes on.
    """
    config, [arm] = plan.experiment.config, plan.experiment.arms
    # The society's models are where they were trained.
    connections = Connections.open(config, plan.source.models)
    try:
        require_sampling(config, connections)
        await keep_templates(store, connections)
        # Batches go below the budget, so that a batch is budgeted call by call.
        if config.evaluation.batch:
            connections = connections.with_batches(store)
        connections = budget.budget_connections(connections, config, store, remedy=_RAISE_BUDGET)
        reporter = ProgressReporter(progress, partial(budget.format_spent, connections))
        connections.listen(reporter.note)
        society = _load_society(store, plan, connections)
        run = RunContext(folder.name, plan.experiment, store, connections, reporter)
        task = plan.experiment.questions.task
        store_questions(run, plan.questions, task.name, "eval")
        await debate_questions(run, arm, society, task, plan.questions, plan.stage, "ask")
    finally:
        await connections.close()
    if (stored := store.run()) is not None and stored.finished_at is None:
        store.write(replace(stored, finished_at=utc_now()))


def _load_society(store: Store, plan: FilePlan, connections: Connections) -> Society:
    """The society that answers; its models are stored in the new run."""
    [arm] = plan.experiment.arms
    with Store.open(plan.source.database, read_only=True) as source:
        untuned = connections.start_society(arm.agents)
        society = load_society(source, untuned, plan.iteration, arm.name)
        # An untuned run that has only begun has stored none of them.
        for used in society.models:
            model = source.model(used.model_id) or Model(used.model_id, used.address)
            # The job and the dataset of a model are in the run that made it.
            store.write(replace(model, parent_id=None, dataset_id=None, job_id=None))
    return society
