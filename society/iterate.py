"""The outer loop (Algorithm 1 of arXiv 2501.05707): debate, vote, fine-tune, again.

Every stage first looks at what the store already has and does only the rest, so starting the same
run again goes on where it stopped, at whatever moment that was. Iteration 0 is the evaluation of
the untuned society; iteration k debates the training questions with the society of k - 1, tunes,
and evaluates the outcome.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from textwrap import shorten

from evals.equivalence import judge
from evals.tasks.base import Split, Task, TaskQuestion
from finetune.datasets import build_all
from finetune.jobs import TuningProgress, tune
from providers.base import ModelRef, Sampling
from society import costs
from society.agents import AgentRole, Society
from society.config import Config
from society.connections import Connections
from society.debate import Debate, Rules
from society.events import Note, Observer, Stage, StageAdvanced, StageFinished, StageStarted
from society.outcome import Scope
from society.runs import RunFolder
from society.tuning import plan, selection, tuned_roles
from store.ledger import Store
from store.records import Dataset, Decoding, Model, Question, Turn

ARM = "multiagent"


async def run(folder: RunFolder, config: Config, store: Store, observer: Observer) -> None:
    """Bring a run to its end, from wherever it is.

    Raises `providers.errors.RunError`, `finetune.jobs.TuningFailed` or `store.errors.StoreError`
    when it has to stop; everything stored until then stays, and calling again resumes.
    """
    connections = Connections.open(config, folder.models)
    if config.evaluation.batch:
        connections = connections.with_batches(store)
    connections = costs.metered(connections, config, store)
    try:
        await _Experiment(folder, config, store, connections, observer).run()
    finally:
        await connections.close()


def society_after(store: Store, society: Society, iteration: int) -> Society:
    """What has become of the untuned `society` after `iteration` passes, as the store knows it."""
    for k in range(1, iteration + 1):
        society = society.with_models(
            {
                (model.agent, model.role): ModelRef(model.model_id, model.provider, model.artifact)
                for model in store.models(k, ARM)
                if model.agent is not None and model.role is not None
            }
        )
    return society


def rules(config: Config, decoding: Decoding) -> Rules:
    """How this experiment debates when it samples, or answers greedily."""
    section = config.sampling
    sampling = Sampling(
        temperature=section.temperature if decoding == "sampled" else 0.0,
        top_p=section.top_p,
        max_tokens=section.max_tokens,
        seed=config.seed,
    )
    return Rules(
        rounds=config.society.rounds,
        others=config.society.others,
        sampling=sampling,
        summary_sampling=replace(sampling, max_tokens=section.summary_max_tokens),
        drop_ties=config.consensus.ties == "drop",
    )


class _Experiment:
    def __init__(
        self,
        folder: RunFolder,
        config: Config,
        store: Store,
        connections: Connections,
        observer: Observer,
    ) -> None:
        self.folder = folder
        self.config = config
        self.store = store
        self.connections = connections
        self.observer = observer
        self.questions = config.questions
        self.surrenders = 0

    async def run(self) -> None:
        society = self.connections.untuned()
        self._remember_bases()
        await self._evaluate(society, 0)
        for iteration in range(1, self.config.iterations + 1):
            await self._train(society, iteration)
            society = await self._tune(society, iteration)
            await self._evaluate(society, iteration)
        stored = self.store.run()
        if stored is not None and stored.finished_at is None:
            self.store.write(replace(stored, finished_at=datetime.now(UTC)))

    async def _train(self, society: Society, iteration: int) -> None:
        questions = self.questions.training(iteration)
        fresh = self.config.train.fresh
        self._remember(
            questions,
            self.questions.task.name,
            "train",
            self.questions.start(iteration),
            iteration if fresh else None,
        )
        scope = Scope(iteration, "train", ARM, "sampled")
        await self._debate(society, self.questions.task, questions, scope, "debate")

    async def _evaluate(self, society: Society, iteration: int) -> None:
        for exam in self.questions.exams:
            questions = exam.questions()
            self._remember(questions, exam.label, "eval", zero_shot=exam.zero_shot)
            for decoding in self.config.evaluation.decodings:
                what = f"zero-shot {exam.label}" if exam.zero_shot else "evaluate"
                scope = Scope(iteration, "eval", ARM, decoding)
                await self._debate(society, exam.task, questions, scope, f"{what} {decoding}")

    async def _debate(
        self,
        society: Society,
        task: Task,
        questions: Sequence[TaskQuestion],
        scope: Scope,
        stage: Stage,
    ) -> None:
        stored = (scope.iteration, scope.split, scope.arm, scope.decoding)
        voted = {
            vote.question_id
            for vote in self.store.votes(*stored)
            if vote.round == self.config.society.rounds
        }
        remaining = [q for q in questions if q.question_id not in voted]
        pending = {q.question_id for q in remaining}
        known = [turn for turn in self.store.turns(*stored) if turn.question_id in pending]
        each = self.config.society.calls
        done, tokens = (len(questions) - len(remaining)) * each + len(known), 0

        def on_turn(turn: Turn) -> None:
            nonlocal done, tokens
            done, tokens = done + 1, tokens + turn.completion_tokens
            self.observer(StageAdvanced(done, tokens, costs.shown(self.connections)))
            if turn.error is not None:
                self.observer(Note(f"{turn.question_id}, agent {turn.agent}: {turn.error}"))

        with self._stage(scope.iteration, stage, "turns", len(questions) * each, done):
            if not remaining:
                return
            await self.connections.serve(society.tuned_models)
            debate = Debate(
                society,
                task,
                self.connections if scope.split == "train" else self.connections.evaluating,
                self.store,
                scope,
                self._rules(scope, len(remaining)),
                known=known,
                on_turn=on_turn,
            )
            async for _ in debate.run(remaining):
                self._tell_surrenders()

    def _rules(self, scope: Scope, questions: int) -> Rules:
        found = rules(self.config, scope.decoding)
        if scope.split == "eval" and self.connections.batched:
            # A batch takes what is asked at one time, so all questions are asked.
            return replace(found, questions_in_flight=questions)
        return found

    def _tell_surrenders(self) -> None:
        given_up = judge().surrenders()
        for surrender in given_up[self.surrenders :]:
            a, b = (shorten(text, 60) for text in surrender.pair)
            self.observer(
                Note(f"comparing {a!r} with {b!r} was given up ({surrender.reason}): not the same")
            )
        self.surrenders = len(given_up)

    async def _tune(self, society: Society, iteration: int) -> Society:
        datasets = self._derive(iteration)
        settings = self.config.finetune
        plans = [
            plan(
                self.config,
                self.folder.name,
                dataset,
                society.model(agent, role)
                if settings.init == "continue"
                else self.connections.base_of(agent),
            )
            for (agent, role), dataset in datasets.items()
        ]
        jobs: dict[str, float] = {}

        def on_progress(news: TuningProgress) -> None:
            jobs[news.job_id] = 1.0 if news.status == "succeeded" else news.progress
            loss = "" if news.loss is None else f", loss {news.loss:.3f}"
            parts = [f"agent {news.agent} {news.role}{loss}", costs.shown(self.connections)]
            detail = " · ".join(part for part in parts if part)
            self.observer(StageAdvanced(sum(jobs.values()), detail=detail))

        with self._stage(iteration, "finetune", "models", len(plans)):
            tuned = await tune(
                providers=self.connections,
                store=self.store,
                plans=plans,
                on_progress=on_progress,
                on_failure=settings.on_failure,
            )
        for kept in tuned.kept:
            self.observer(
                Note(f"agent {kept.agent}, {kept.role} keeps its old model: {kept.reason}")
            )
        old = {(kept.agent, kept.role) for kept in tuned.kept}
        return society.with_models({o: model for o, model in tuned.items() if o not in old})

    def _derive(self, iteration: int) -> dict[tuple[int, AgentRole], Dataset]:
        owners = tuned_roles(self.config)
        with self._stage(iteration, "datasets", "datasets", len(owners)):
            datasets = build_all(self.store, iteration, ARM, owners, selection(self.config))
            self.observer(StageAdvanced(len(datasets)))
        for dataset in datasets.values():
            if dataset.note is not None:
                self.observer(Note(f"dataset {dataset.dataset_id}: {dataset.note}"))
        return datasets

    @contextmanager
    def _stage(
        self, iteration: int, stage: Stage, unit: str, total: int, done: int = 0
    ) -> Iterator[None]:
        started = time.monotonic()
        self.observer(StageStarted(iteration, stage, unit, total, done))
        yield
        self.observer(StageFinished(time.monotonic() - started))

    def _remember(
        self,
        questions: Sequence[TaskQuestion],
        task: str,
        split: Split,
        start: int = 0,
        iteration: int | None = None,
        zero_shot: bool = False,
    ) -> None:
        self.store.write(
            *(
                Question(
                    question_id=q.question_id,
                    task=task,
                    split=split,
                    question=q.text,
                    gold=q.gold,
                    iteration=iteration,
                    position=position,
                    meta=json.dumps(dict(q.meta)) if q.meta else None,
                    zero_shot=zero_shot,
                )
                for position, q in enumerate(questions, start)
            )
        )

    def _remember_bases(self) -> None:
        for provider in self.connections.values():
            base = provider.base
            if self.store.model(base.model_id) is None:
                self.store.write(Model(model_id=base.model_id, provider=base.address))
