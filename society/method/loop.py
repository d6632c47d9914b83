"""The outer loop (Algorithm 1 of arXiv 2501.05707): debate, vote, fine-tune, again.

Every stage first looks at what the store already has and does only the rest, so starting the same
run again goes on where it stopped, at whatever moment that was. Iteration 0 is the evaluation of
the untuned society; iteration k debates the training questions with the society of k - 1, tunes,
and evaluates the outcome. Every arm of the experiment goes through the same stages; the models of
all arms are tuned together, and what an arm asks that another has asked is not asked again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from textwrap import shorten

from evals import health
from evals.equivalence import judge
from evals.health import Concern
from evals.tasks.base import Split, Task, TaskQuestion
from finetune.datasets import build_all
from finetune.jobs import TuningProgress, tune
from providers.types import ModelRef, Sampling
from society.config.schema import Config
from society.method.agents import AgentRole, Society
from society.method.arms import Arm, count_samples, find_reference, order_by_reference
from society.method.connections import Connections
from society.method.debate import Debate, Rules
from society.method.diversity import DiversityProbe
from society.method.experiment import Experiment
from society.method.failed_requests import withdraw_failed
from society.method.finetuning import build_plan, build_rules, keep_job_settings, tuned_roles
from society.method.progress import (
    Note,
    Observer,
    StageAdvanced,
    StageFinished,
    StageName,
    StageStarted,
)
from society.method.redo import take_back
from society.method.reuse import Shared
from society.method.tuning import plan, resumed, selection, tuned_roles
from society.method.voting import majority
from store.ledger import Store
from store.records import Dataset, Decoding, Model, Question, StageKey, Turn

# A model that took over another job's outcome is that job's.
_TUNED = """
SELECT j.agent, j.role, m.model_id, m.provider, m.artifact, m.sha256
FROM jobs AS j
JOIN models AS m ON m.job_id = coalesce(j.shared_job_id, j.job_id)
WHERE j.iteration = ? AND j.arm = ? AND j.status = 'succeeded'
"""


async def run(
    name: str,
    experiment: Experiment,
    store: Store,
    connections: Connections,
    observer: Observer,
    describe_spending: Callable[[], str],
) -> None:
    """Bring the run `name` to its end, from wherever it is.

    Raises `providers.errors.RunError`, `finetune.jobs.TuningFailed` or `store.errors.StoreError`
    when it has to stop; everything stored until then stays, and calling again resumes.
    """
    await _Experiment(name, experiment, store, connections, observer, describe_spending).run()


def load_society(store: Store, society: Society, iteration: int, arm: str) -> Society:
    """What has become of the untuned `society` after `iteration` passes, as the store knows it."""
    for k in range(1, iteration + 1):
        tuned = store.rows(_TUNED, [k, arm])
        society = society.with_models(
            {(agent, role): ModelRef(*model) for agent, role, *model in tuned}
        )
    return society


def build_debate_rules(config: Config, arm: Arm, decoding: Decoding) -> Rules:
    """How an arm of this experiment debates when it samples, or answers greedily."""
    section = config.sampling
    sampling = Sampling(
        temperature=section.temperature if decoding == "sampled" else 0.0,
        top_p=section.top_p,
        max_tokens=section.max_tokens,
        seed=config.seed,
    )
    return Rules(
        rounds=arm.rounds,
        others=arm.others,
        sampling=sampling,
        summary_sampling=replace(sampling, max_tokens=section.summary_max_tokens),
        drop_ties=config.consensus.ties == "drop",
        quorum=config.consensus.quorum or default_quorum(arm.train_agents),
        seed=config.seed,
        label=arm.labels or "final",
    )


class _Experiment:
    def __init__(
        self,
        name: str,
        experiment: Experiment,
        store: Store,
        connections: Connections,
        observer: Observer,
        describe_spending: Callable[[], str],
    ) -> None:
        self.name = name
        self.config = config = experiment.config
        self.describe_spending = describe_spending
        self.store = store
        self.connections = connections
        self.observer = observer
        self.questions = experiment.questions
        self.arms = experiment.arms
        self.meter = DiversityProbe(store, config, connections)
        self.surrenders = 0
        self.noted: set[str] = set()

    async def run(self) -> None:
        # How large a vote matched to tokens is, is known once those are.
        self.store.write(*(a.record() for a in self.arms if a.matched_to != "tokens"))
        self._remember_bases()
        societies: dict[str, Society] = {}
        for arm in order_by_reference(self.arms):
            sized = self._sized(arm)
            societies[arm.name] = self.connections.untuned(sized.agents)
            await self._evaluate(sized, societies[arm.name], 0)
        for iteration in range(1, self.config.iterations + 1):
            trained = [arm for arm in self.arms if arm.trained_in(iteration)]
            for arm in trained:
                await self._train(arm, societies[arm.name], iteration)
                self._tell(arm, health.label_concerns(self.store, arm.name, iteration))
            societies |= await self._tune(trained, societies, iteration)
            for arm in trained:
                await self._evaluate(arm, societies[arm.name], iteration)
                self._tell(arm, health.held_out_concerns(self.store, arm.name, iteration))
        stored = self.store.run()
        if stored is not None and stored.finished_at is None:
            self.store.write(replace(stored, finished_at=datetime.now(UTC)))

    def _sized(self, arm: Arm) -> Arm:
        """The arm with as many samples as what it is matched to takes."""
        if arm.matched_to != "tokens":
            return arm
        model = find_reference(self.arms, self.config.society)
        assert model is not None
        samples = count_samples(self.store, model.name)
        if samples is None:
            self.observer(
                Note(
                    f"{arm.name}: no answer of {model.name} tells its tokens; as many samples are "
                    f"taken as it makes calls, {arm.agents}"
                )
            )
        sized = arm if samples is None else replace(arm, agents=samples)
        self.store.write(sized.record())
        return sized

    async def _train(self, arm: Arm, society: Society, iteration: int) -> None:
        questions = self.questions.training(iteration)
        self._remember(
            questions,
            self.questions.task.name,
            "train",
            self.questions.start(iteration),
            self.questions.first_iteration(iteration),
        )
        stage = StageKey(iteration, "train", arm.name, "sampled")
        asking = society.first(arm.train_agents)
        task = self.questions.task_of(iteration)
        await self._debate(arm, asking, task, questions, stage, "debate")

    async def _evaluate(self, arm: Arm, society: Society, iteration: int) -> None:
        for each in self.questions.evaluation_sets:
            questions = each.questions()
            self._remember(questions, each.label, "eval", zero_shot=each.is_extra)
            for decoding in arm.decodings(self.config.evaluation.decodings):
                stage = StageKey(iteration, "eval", arm.name, decoding)
                name = f"{each.stage} {decoding}"
                await self._debate(arm, society, each.task, questions, stage, name)
                if not each.is_extra:
                    await self._measure_diversity(stage, each.label)

    async def _measure_diversity(self, stage: StageKey, task: str) -> None:
        found = self.meter.planned(stage, task)
        if found is None:
            return
        if not found.steps:  # other arms had all of it
            await self.meter.measure(found)
            return
        name = self._of_arm(stage.arm, f"diversity {stage.decoding}")

        def on_progress(done: int) -> None:
            self.observer(StageAdvanced(done, detail=self.describe_spending()))

        with self._stage(stage.iteration, name, "steps", found.steps):
            await self.meter.measure(found, on_progress)

    def _tell(self, arm: Arm, concerns: Sequence[Concern]) -> None:
        for concern in concerns:
            who = "" if len(self.arms) == 1 else f"{arm.name}: "
            self.observer(Note(who + concern.text))

    def _note(self, text: str | None) -> None:
        if text is not None:
            self.observer(Note(text))

    def _of_arm(self, arm: str, text: str) -> str:
        return text if len(self.arms) == 1 else f"{arm} {text}"

    async def _debate(
        self,
        arm: Arm,
        society: Society,
        task: Task,
        questions: Sequence[TaskQuestion],
        stage: StageKey,
        name: StageName,
    ) -> None:
        again = take_back(self.store, stage)
        voted = {vote.question_id for vote in self.store.votes(stage) if vote.round == arm.rounds}
        remaining = [q for q in questions if q.question_id not in voted]
        pending = {q.question_id for q in remaining}
        known = [turn for turn in self.store.turns(stage) if turn.question_id in pending]
        each = arm.calls(len(society.agents))
        done, tokens = (len(questions) - len(remaining)) * each + len(known), 0

        def on_turn(turn: Turn) -> None:
            nonlocal done, tokens
            done += 1
            tokens += turn.completion_tokens if turn.shared_turn_id is None else 0
            self.observer(StageAdvanced(done, tokens, self.describe_spending()))
            self._note(reading.add(turn))

        named, first = self._of_arm(arm.name, name), self.config.stop_if_unread
        reading = Reading(named, task, first, again)
        with self._stage(stage.iteration, named, "turns", len(questions) * each, done):
            if remaining:
                await self.connections.load_adapters(society.tuned_models)
            if again:
                self._note(f"{len(again)} requests that failed are asked again")
            debate = Debate(
                society,
                task,
                self.connections if stage.split == "train" else self.connections.evaluating,
                self.store,
                stage,
                self._rules(arm, stage, len(remaining)),
                known=known,
                again=again,
                shared=self._shared(society, stage, pending),
                on_turn=on_turn,
                stop=reading.stop,
            )
            async for _ in debate.run(remaining):
                self._tell_surrenders()
        self._note(reading.summary())
        if first:
            check_stage(self.store, stage, named, task)

    def _shared(self, society: Society, stage: StageKey, questions: set[str]) -> Shared:
        """What other arms have asked in this stage, of models that this society uses too."""
        models = {m.model_id: m.address for m in society.models}

        def repeats(model_id: str) -> bool:
            greedy = stage.decoding == "greedy" and model_id in models
            return greedy and self.connections[models[model_id]].capabilities.repeatable

        if len(self.arms) == 1:
            return Shared((), repeats)
        others = self.store.turns_of_others(stage, sorted(models))
        return Shared((turn for turn in others if turn.question_id in questions), repeats)

    def _rules(self, arm: Arm, stage: StageKey, questions: int) -> Rules:
        found = rules(self.config, arm, stage.decoding)
        if stage.split == "eval" and self.connections.batched:
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

    async def _tune(
        self, arms: Sequence[Arm], societies: Mapping[str, Society], iteration: int
    ) -> dict[str, Society]:
        settings = self.config.finetune
        plans = [
            keep_job_settings(
                build_plan(
                    self.config,
                    self.name,
                    dataset,
                    societies[arm.name].model(agent, role)
                    if settings.init == "continue"
                    else self.connections.base_of(agent),
                ),
                self.store,
            )
            for arm, datasets in zip(arms, self._derive(arms, iteration), strict=True)
            for (agent, role), dataset in datasets.items()
        ]
        if self.config.stop_if_unread:
            require_examples(self.store, plans, self.connections, self.questions.task_of(iteration))
        jobs: dict[str, float] = {}

        def on_progress(news: TuningProgress) -> None:
            if news.note is not None and news.note not in self.noted:
                self.noted.add(news.note)
                self.observer(Note(news.note))
            jobs[news.job_id] = 1.0 if news.status == "succeeded" else news.progress
            loss = "" if news.loss is None else f", loss {news.loss:.3f}"
            parts = [f"{self._whose(news)}{loss}", self.describe_spending()]
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
        after: dict[str, Society] = {}
        for arm in arms:
            for kept in tuned[arm.name].kept:
                who = _named(arm.name if len(self.arms) > 1 else "", kept.agent, kept.role)
                self.observer(Note(f"{who} keeps its old model: {kept.reason}"))
            old = {(kept.agent, kept.role) for kept in tuned[arm.name].kept}
            new = {o: model for o, model in tuned[arm.name].items() if o not in old}
            after[arm.name] = societies[arm.name].with_models(new)
        return after

    def _whose(self, news: TuningProgress) -> str:
        return _named(news.arm if len(self.arms) > 1 else "", news.agent, news.role)

    def _derive(
        self, arms: Sequence[Arm], iteration: int
    ) -> list[dict[tuple[int, AgentRole], Dataset]]:
        owners = {arm.name: tuned_roles(arm) for arm in arms}
        derived = []
        with self._stage(iteration, "datasets", "datasets", sum(map(len, owners.values()))):
            for arm in arms:
                rules = build_rules(self.config, arm)
                derived.append(build_all(self.store, iteration, arm.name, owners[arm.name], rules))
                self.observer(StageAdvanced(sum(map(len, derived))))
        for dataset in (d for datasets in derived for d in datasets.values()):
            if dataset.note is not None:
                self.observer(Note(f"dataset {dataset.dataset_id}: {dataset.note}"))
        return derived

    @contextmanager
    def _stage(
        self, iteration: int, stage: StageName, unit: str, total: int, done: int = 0
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


def _named(arm: str, agent: int, role: AgentRole) -> str:
    who = f"agent {agent}, {role}" if agent else f"the shared {role}"
    return f"{arm}: {who}" if arm else who
