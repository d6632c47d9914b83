"""The debate stage: one arm's society debates a set of questions, and resumes where it stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from textwrap import shorten

from evals.judge.pool import get_shared_judge
from evals.tasks.base import Task, TaskQuestion
from providers.base import Provider
from providers.errors import InvalidSettings
from providers.types import Sampling
from society.config.schema import Config
from society.method.agents import Society
from society.method.arms import Arm
from society.method.debate import MOST_IN_FLIGHT, Debate, DebateRules, LabelVoters
from society.method.experiment import RunContext
from society.method.failed_requests import withdraw_failed
from society.method.progress import ProgressReporter, StageName
from society.method.reuse import SharedAnswers
from society.method.unread import ReadingMonitor, require_read
from society.method.voting import default_quorum
from store.label_rounds import find_label_round
from store.records import IN_STAGE, Decoding, Question, Split, StageKey, Turn

_EARLY_ENDS = f"""
SELECT count(DISTINCT question_id), count(DISTINCT question_id) FILTER (carried_from IS NOT NULL),
    count(carried_from)
FROM votes WHERE {IN_STAGE} AND question_id IN (SELECT unnest($questions))
"""

# Enough calls at once for a server with several agents; see docs/scale.md.
_QUESTIONS_PER_SERVER = 128


async def debate_questions(
    run: RunContext,
    arm: Arm,
    society: Society,
    task: Task,
    questions: Sequence[TaskQuestion],
    stage: StageKey,
    name: StageName,
    voters: LabelVoters | None = None,
) -> None:
    """Debate the questions of a stage that have no vote yet, until all have one."""
    # First of all, since a withdrawn turn must count neither as stored nor as known.
    failed = withdraw_failed(run.store, stage)
    # The votes of a debate are stored last, all at once: a question with a vote of the last round
    # is complete, and one without is debated from the turns that it has.
    voted = {vote.question_id for vote in run.store.votes(stage) if vote.round == arm.rounds}
    remaining = [q for q in questions if q.question_id not in voted]
    rules = replace(_build_stage_rules(run, arm, stage, len(remaining)), label_voters=voters)
    plan = StagePlan(stage, name, task, len(questions), remaining, arm.calls(len(society.agents)))
    await hold_stage(run, arm, society, plan, rules, failed)
    if remaining and rules.early_end:
        run.progress.note(_describe_early_ends(run, arm, stage, questions, len(society.agents)))


@dataclass(frozen=True, slots=True)
class StagePlan:
    """What is asked in a stage: those of its `questions` that remain, `turns_each` turns each.

    With `samples`, first answers of these numbers are asked and no debate is held.
    """

    key: StageKey
    name: StageName
    task: Task
    questions: int
    remaining: Sequence[TaskQuestion]
    turns_each: int
    samples: Sequence[int] = ()


async def hold_stage(
    run: RunContext,
    arm: Arm,
    society: Society,
    plan: StagePlan,
    rules: DebateRules,
    failed: Mapping[int, Turn],
) -> None:
    """Ask what remains of a stage; `failed` turns are asked again."""
    store, progress, stop_after = run.store, run.progress, run.config.stop_if_unread
    stage = plan.key
    pending = {q.question_id for q in plan.remaining}
    known = [turn for turn in store.turns(stage) if turn.question_id in pending]
    name = run.name_stage(arm.name, plan.name)
    monitor = ReadingMonitor(name, plan.task, stop_after, failed)
    count = _TurnCount(progress, (plan.questions - len(pending)) * plan.turns_each + len(known))

    def report_turn(turn: Turn) -> None:
        count.add_turn(turn)
        progress.note(monitor.add(turn))

    def report_early_end(rounds: int) -> None:
        # Turns that are not needed count as done, or the stage would never come to its end.
        count.add(rounds * arm.calls_of_later_round(len(society.agents)))

    total = plan.questions * plan.turns_each
    with progress.stage(stage.iteration, name, "turns", total, count.done):
        if plan.remaining:
            await run.connections.load_adapters(society.tuned_models)
        if failed:
            progress.note(f"{len(failed)} requests that failed are asked again")
        debate = Debate(
            society,
            plan.task,
            run.connections.evaluating if stage.split == "eval" else run.connections,
            store,
            stage,
            rules,
            known=known,
            again=failed,
            shared=find_shared(run, society, stage, pending),
            on_turn=report_turn,
            on_early_end=report_early_end,
            stop=monitor.stop,
        )
        async for _ in debate.run(plan.remaining, plan.samples):
            _note_given_up(run)
    progress.note(monitor.summary())
    if stop_after:
        require_read(store, stage, name, plan.task)


class _TurnCount:
    """How many turns of a stage are done, and the tokens of those that were answered now."""

    def __init__(self, progress: ProgressReporter, done: int) -> None:
        self.done = done
        self._progress = progress
        self._tokens = 0

    def add_turn(self, turn: Turn) -> None:
        # A reused answer took no tokens of its own.
        self._tokens += turn.completion_tokens if turn.shared_turn_id is None else 0
        self.add(1)

    def add(self, turns: int) -> None:
        self.done += turns
        self._progress.advance(self.done, self._tokens)


def build_debate_rules(
    config: Config, arm: Arm, decoding: Decoding, split: Split = "eval"
) -> DebateRules:
    """How an arm of this experiment debates when it samples, or answers greedily."""
    config = config.for_arm(arm.name)
    section = config.sampling
    sampling = section.build_sampling(decoding, config.seed)
    return DebateRules(
        rounds=arm.rounds,
        others=arm.others,
        sampling=sampling,
        summary_sampling=replace(sampling, max_tokens=section.summary_max_tokens),
        drop_ties=config.consensus.ties == "drop",
        quorum=min(config.consensus.quorum or default_quorum(arm.train_agents), arm.train_agents),
        seed=config.seed,
        label=arm.labels or "final",
        wording=config.wording,
        agent_sampling=tuple(own.build_sampling(decoding, config.seed) for own in section.by_agent),
        early_end=arm.ends_early(split),
        questions_in_flight=_count_in_flight(config),
    )


def _count_in_flight(config: Config) -> int:
    servers = 0 if config.serving is None else config.serving.count_servers()
    return max(MOST_IN_FLIGHT, _QUESTIONS_PER_SERVER * servers)


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
    rules = build_debate_rules(run.config, arm, stage.decoding, stage.question_split)
    # Debates whose failed requests were asked again get labels as the others of their stage.
    if stage.split == "train" and find_label_round(run.store, stage.iteration, arm.name) == 1:
        rules = replace(rules, label="round1")
    if stage.split == "eval" and run.connections.batch_addresses:
        # A batch takes what is requested at one time, so all questions are in flight together.
        return replace(rules, questions_in_flight=questions)
    return rules


def _describe_early_ends(
    run: RunContext, arm: Arm, stage: StageKey, questions: Sequence[TaskQuestion], agents: int
) -> str | None:
    """How many debates of a stage ended early, and what that saved; None if none did."""
    asked = [question.question_id for question in questions]
    [(debates, ended, rounds)] = run.store.rows(_EARLY_ENDS, {**stage.params, "questions": asked})
    if not ended:
        return None
    calls = rounds * arm.calls_of_later_round(agents)
    return (
        f"{run.prefix(arm.name)}{ended} of {debates} debates ended early, all agents agreed: "
        f"{calls:,} of {debates * arm.calls(agents):,} calls were left out"
    )


def _note_given_up(run: RunContext) -> None:
    for pair in get_shared_judge().list_given_up():
        a, b = (shorten(text, 60) for text in pair.pair)
        run.progress.note_once(
            f"comparing {a!r} with {b!r} was given up ({pair.reason}): not the same"
        )
