"""The debate stage: one arm's society debates a set of questions, and resumes where it stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from textwrap import shorten

from evals import degradation
from evals.judge.pool import get_shared_judge
from evals.tasks.base import Split, Task, TaskQuestion
from providers.base import Provider
from providers.errors import InvalidSettings
from providers.types import Sampling
from society.config.schema import Config
from society.method.agents import Society
from society.method.arms import Arm
from society.method.debate import Debate, DebateRules
from society.method.experiment import RunContext
from society.method.failed_requests import withdraw_failed
from society.method.progress import StageName
from society.method.reuse import SharedAnswers
from society.method.unread import ReadingMonitor, require_read
from society.method.voting import default_quorum
from store.records import Decoding, Question, StageKey, Turn


async def debate_training_questions(
    run: RunContext, arm: Arm, society: Society, iteration: int
) -> None:
    """Debate the unlabelled questions of an iteration, whose votes become its labels."""
    questions = run.experiment.questions
    asked = questions.training_questions(iteration)
    store_questions(
        run,
        asked,
        questions.task.name,
        "train",
        first_position=questions.start(iteration),
        iteration=questions.first_iteration(iteration),
    )
    stage = StageKey(iteration, "train", arm.name, "sampled")
    society = society.first(arm.train_agents)
    await debate_questions(run, arm, society, questions.task_of(iteration), asked, stage, "debate")
    run.progress.note_all(
        run.prefix(arm.name) + concern.text
        for concern in degradation.find_label_concerns(run.store, arm.name, iteration)
    )


async def debate_questions(
    run: RunContext,
    arm: Arm,
    society: Society,
    task: Task,
    questions: Sequence[TaskQuestion],
    stage: StageKey,
    name: StageName,
) -> None:
    """Debate the questions of a stage that have no vote yet, until all have one."""
    store, progress, stop_after = run.store, run.progress, run.config.stop_if_unread
    # First of all, since a withdrawn turn must count neither as stored nor as known.
    failed = withdraw_failed(store, stage)
    # The votes of a debate are stored last, all at once: a question with a vote of the last round
    # is complete, and one without is debated from the turns that it has.
    voted = {vote.question_id for vote in store.votes(stage) if vote.round == arm.rounds}
    remaining = [q for q in questions if q.question_id not in voted]
    pending = {q.question_id for q in remaining}
    known = [turn for turn in store.turns(stage) if turn.question_id in pending]
    turns_each = arm.calls(len(society.agents))
    done, tokens = (len(questions) - len(remaining)) * turns_each + len(known), 0
    name = run.name_stage(arm.name, name)
    monitor = ReadingMonitor(name, task, stop_after, failed)

    def report_turn(turn: Turn) -> None:
        nonlocal done, tokens
        done += 1
        # A reused answer took no tokens of its own.
        tokens += turn.completion_tokens if turn.shared_turn_id is None else 0
        progress.advance(done, tokens)
        progress.note(monitor.add(turn))

    with progress.stage(stage.iteration, name, "turns", len(questions) * turns_each, done):
        if remaining:
            await run.connections.load_adapters(society.tuned_models)
        if failed:
            progress.note(f"{len(failed)} requests that failed are asked again")
        debate = Debate(
            society,
            task,
            run.connections if stage.split == "train" else run.connections.evaluating,
            store,
            stage,
            _build_stage_rules(run, arm, stage, len(remaining)),
            known=known,
            again=failed,
            shared=find_shared(run, society, stage, pending),
            on_turn=report_turn,
            stop=monitor.stop,
        )
        async for _ in debate.run(remaining):
            _note_given_up(run)
    progress.note(monitor.summary())
    if stop_after:
        require_read(store, stage, name, task)


def build_debate_rules(config: Config, arm: Arm, decoding: Decoding) -> DebateRules:
    """How an arm of this experiment debates when it samples, or answers greedily."""
    section = config.sampling
    sampling = section.build_sampling(decoding, config.seed)
    return DebateRules(
        rounds=arm.rounds,
        others=arm.others,
        sampling=sampling,
        summary_sampling=replace(sampling, max_tokens=section.summary_max_tokens),
        drop_ties=config.consensus.ties == "drop",
        quorum=config.consensus.quorum or default_quorum(arm.train_agents),
        seed=config.seed,
        label=arm.labels or "final",
        wording=config.wording,
        agent_sampling=tuple(own.build_sampling(decoding, config.seed) for own in section.by_agent),
    )


def list_samplings(config: Config, address: str) -> tuple[Sampling, ...]:
    """The different ways in which the model at `address` will be asked to draw its answers."""
    section = config.sampling
    own = section.by_agent or (section,) * config.society.agents
    asked = [each for each, base in zip(own, config.agent_models, strict=True) if base == address]
    # The summarizer, and agents of arms that have more of them.
    if address == config.model:
        asked.append(section)
    return tuple(dict.fromkeys(each.build_sampling("sampled", config.seed) for each in asked))


def require_sampling(config: Config, providers: Mapping[str, Provider]) -> None:
    """Raise `InvalidSettings` if a model does not have what [sampling] asks of it."""
    faults = [
        f"{address}: {fault}"
        for address, provider in providers.items()
        for sampling in list_samplings(config, address)
        for fault in provider.validate_sampling(sampling)
    ]
    if faults:
        raise InvalidSettings("\n".join(dict.fromkeys(faults)))


def find_shared(
    run: RunContext, society: Society, stage: StageKey, questions: set[str]
) -> SharedAnswers:
    """What other arms have been answered in this stage, by models that this society uses too."""
    addresses = {m.model_id: m.address for m in society.models}
    drawn_alike = not run.config.sampling.agents

    # Only a greedy answer of a provider that computes the same bits every time (a local model) is
    # known without asking again; servers batch requests differently from call to call. Agents with
    # settings of their own may answer one conversation differently.
    def repeats(model_id: str) -> bool:
        if stage.decoding != "greedy" or model_id not in addresses or not drawn_alike:
            return False
        return run.connections[addresses[model_id]].capabilities.repeatable

    if len(run.experiment.arms) == 1:
        return SharedAnswers((), repeats)
    # The store may hold millions of turns of other arms, so they are read as a stream and only
    # those of questions still to be debated are kept.
    others = run.store.turns_of_others(stage, sorted(addresses))
    return SharedAnswers((turn for turn in others if turn.question_id in questions), repeats)


def store_questions(
    run: RunContext,
    questions: Sequence[TaskQuestion],
    task: str,
    split: Split,
    first_position: int = 0,
    iteration: int | None = None,
    is_extra: bool = False,
) -> None:
    """Store the questions of a stage; those that are stored already stay as they are."""
    run.store.write(
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
                is_extra=is_extra,
            )
            for position, q in enumerate(questions, first_position)
        )
    )


def _build_stage_rules(run: RunContext, arm: Arm, stage: StageKey, questions: int) -> DebateRules:
    rules = build_debate_rules(run.config, arm, stage.decoding)
    if stage.split == "eval" and run.connections.batch_addresses:
        # A batch takes what is requested at one time, so all questions are in flight together.
        return replace(rules, questions_in_flight=questions)
    return rules


def _note_given_up(run: RunContext) -> None:
    for pair in get_shared_judge().list_given_up():
        a, b = (shorten(text, 60) for text in pair.pair)
        run.progress.note_once(
            f"comparing {a!r} with {b!r} was given up ({pair.reason}): not the same"
        )
