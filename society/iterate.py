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

from evals import tasks
from evals.tasks.base import Split, Task, TaskQuestion
from finetune.datasets import DatasetRules, build_all
from finetune.jobs import TuningPlan, TuningProgress, tune
from providers import registry
from providers.base import ModelRef, Provider, Sampling
from society.agents import ROLES, AgentRole, Society
from society.config import Config
from society.debate import Debate, Rules, Scope
from society.events import Note, Observer, Stage, StageAdvanced, StageFinished, StageStarted
from society.runs import RunFolder
from store.ledger import Store
from store.records import Dataset, Decoding, Model, Question, Turn

ARM = "multiagent"


async def run(folder: RunFolder, config: Config, store: Store, observer: Observer) -> None:
    """Bring a run to its end, from wherever it is.

    Raises `providers.errors.RunError`, `finetune.jobs.TuningFailed` or `store.errors.StoreError`
    when it has to stop; everything stored until then stays, and calling again resumes.
    """
    provider = registry.connect(config.model, config.provider, folder.models)
    try:
        await _Experiment(folder, config, store, provider, observer).run()
    finally:
        await provider.close()


def society_after(store: Store, base: ModelRef, size: int, iteration: int) -> Society:
    """The society of `size` agents after `iteration` passes, as the store knows it."""
    society = Society.untuned(base, size)
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
        provider: Provider,
        observer: Observer,
    ) -> None:
        self.folder = folder
        self.config = config
        self.store = store
        self.provider = provider
        self.observer = observer
        self.task: Task = tasks.load(config.task.name, config.task.options)

    async def run(self) -> None:
        society = Society.untuned(self.provider.base, self.config.society.agents)
        self._remember_base()
        await self._evaluate(society, 0)
        for iteration in range(1, self.config.iterations + 1):
            await self._debate(society, iteration, "train", "sampled", "debate")
            society = await self._tune(society, iteration)
            await self._evaluate(society, iteration)
        stored = self.store.run()
        if stored is not None and stored.finished_at is None:
            self.store.write(replace(stored, finished_at=datetime.now(UTC)))

    async def _evaluate(self, society: Society, iteration: int) -> None:
        for decoding in self.config.evaluation.decodings:
            stage: Stage = "evaluate sampled" if decoding == "sampled" else "evaluate greedy"
            await self._debate(society, iteration, "eval", decoding, stage)

    async def _debate(
        self,
        society: Society,
        iteration: int,
        split: Split,
        decoding: Decoding,
        stage: Stage,
    ) -> None:
        questions = self._questions(split, iteration)
        finished = {
            vote.question_id
            for vote in self.store.votes(iteration, split, ARM, decoding)
            if vote.round == self.config.society.rounds
        }
        remaining = [q for q in questions if q.question_id not in finished]
        pending = {q.question_id for q in remaining}
        known = [
            turn
            for turn in self.store.turns(iteration, split, ARM, decoding)
            if turn.question_id in pending
        ]
        each = self._turns_of_a_debate()
        done, tokens = len(finished) * each + len(known), 0

        def on_turn(turn: Turn) -> None:
            nonlocal done, tokens
            done, tokens = done + 1, tokens + turn.completion_tokens
            self.observer(StageAdvanced(done, tokens))
            if turn.error is not None:
                self.observer(Note(f"{turn.question_id}, agent {turn.agent}: {turn.error}"))

        with self._stage(iteration, stage, "turns", len(questions) * each, done):
            if not remaining:
                return
            await self.provider.serve(society.tuned_models)
            debate = Debate(
                society,
                self.task,
                {self.config.model: self.provider},
                self.store,
                Scope(iteration, split, ARM, decoding),
                rules(self.config, decoding),
                known=known,
                on_turn=on_turn,
            )
            async for _ in debate.run(remaining):
                pass

    def _turns_of_a_debate(self) -> int:
        section = self.config.society
        summaries = section.rounds - 1 if section.others == "summarized" else 0
        return section.agents * (section.rounds + summaries)

    async def _tune(self, society: Society, iteration: int) -> Society:
        datasets = self._derive(iteration)
        settings = self.config.finetune
        plans = [
            TuningPlan(
                run=self.folder.name,
                iteration=iteration,
                arm=ARM,
                agent=agent,
                role=role,
                start=(
                    society.model(agent, role)
                    if settings.init == "continue"
                    else self.provider.base
                ),
                dataset=dataset,
                hyperparameters=settings.hyperparameters(role),
                seed=self.config.seed,
            )
            for (agent, role), dataset in datasets.items()
        ]
        jobs: dict[str, float] = {}

        def on_progress(news: TuningProgress) -> None:
            jobs[news.job_id] = 1.0 if news.status == "succeeded" else news.progress
            loss = "" if news.loss is None else f", loss {news.loss:.3f}"
            detail = f"agent {news.agent} {news.role}{loss}"
            self.observer(StageAdvanced(sum(jobs.values()), detail=detail))

        with self._stage(iteration, "finetune", "models", len(plans)):
            tuned = await tune(
                provider=self.provider, store=self.store, plans=plans, on_progress=on_progress
            )
        for kept in tuned.kept:
            self.observer(
                Note(f"agent {kept.agent}, {kept.role} keeps its old model: {kept.reason}")
            )
        old = {(kept.agent, kept.role) for kept in tuned.kept}
        return society.with_models({o: model for o, model in tuned.items() if o not in old})

    def _derive(self, iteration: int) -> dict[tuple[int, AgentRole], Dataset]:
        section, society = self.config.datasets, self.config.society
        roles = ROLES if society.rounds > 1 else ROLES[:1]
        owners = [(agent, role) for role in roles for agent in range(1, society.agents + 1)]
        selection = DatasetRules(
            w=section.w,
            critic_loss=section.critic_loss,
            max_examples=section.max_examples,
            seed=self.config.seed,
        )
        with self._stage(iteration, "datasets", "datasets", len(owners)):
            datasets = build_all(self.store, iteration, ARM, owners, selection)
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

    def _questions(self, split: Split, iteration: int) -> Sequence[TaskQuestion]:
        section = self.config.train if split == "train" else self.config.evaluation
        fresh = split == "train" and self.config.train.fresh
        start = (iteration - 1) * section.questions if fresh else 0
        questions = self.task.questions(split, start, section.questions)
        self.store.write(
            *(
                Question(
                    question_id=q.question_id,
                    task=self.task.name,
                    split=split,
                    question=q.text,
                    gold=q.gold,
                    iteration=iteration if fresh else None,
                    position=position,
                    meta=json.dumps(dict(q.meta)) if q.meta else None,
                )
                for position, q in enumerate(questions, start)
            )
        )
        return questions

    def _remember_base(self) -> None:
        base = self.provider.base
        if self.store.model(base.model_id) is None:
            self.store.write(Model(model_id=base.model_id, provider=base.address))
