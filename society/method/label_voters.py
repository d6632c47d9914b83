"""The training debates of an iteration, and who votes on their labels.

By default a debate's own votes label it. Further first answers may vote beside those of round 1
(`consensus.label_samples`), or another society may label in its place: that of some iterations
before, or the averaged one (`consensus.labels`). Such answers are asked in a stage of their own,
split "label", before the debates; the vote over them is stored with the debate's own votes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from evals import degradation
from evals.tasks.base import Task, TaskQuestion
from society.method.agents import Agent, Society
from society.method.arms import Arm
from society.method.averaging import average_generators
from society.method.debate import LabelVoters
from society.method.debating import (
    StagePlan,
    build_debate_rules,
    debate_questions,
    hold_stage,
    store_questions,
)
from society.method.experiment import RunContext
from society.method.failed_requests import withdraw_failed
from society.method.finetuning import load_society
from society.method.label_round import choose_label_round
from society.method.voting import default_quorum
from store.ledger import Store
from store.records import StageKey

_ANSWERS = """
SELECT question_id, answer
FROM turns
WHERE iteration = ? AND arm = ? AND split = 'label'
ORDER BY question_id, sample, agent
"""


async def debate_training_questions(
    run: RunContext, arm: Arm, society: Society, iteration: int
) -> None:
    """Debate the unlabelled questions of an iteration, and label them by a vote."""
    questions = run.experiment.questions
    asked, task = questions.training_questions(iteration), questions.task_of(iteration)
    store_questions(
        run,
        asked,
        questions.task.name,
        "train",
        first_position=questions.start(iteration),
        iteration=questions.first_iteration(iteration),
    )
    voters = await _ask_label_voters(run, arm, society, task, asked, iteration)
    stage = StageKey(iteration, "train", arm.name, "sampled")
    society = society.first(arm.train_agents)
    await debate_questions(run, arm, society, task, asked, stage, "debate", voters)
    await choose_label_round(run, arm, stage, task)
    run.progress.note_all(
        run.prefix(arm.name) + concern.text
        for concern in degradation.find_label_concerns(run.store, arm.name, iteration)
    )


async def _ask_label_voters(
    run: RunContext,
    arm: Arm,
    society: Society,
    task: Task,
    asked: Sequence[TaskQuestion],
    iteration: int,
) -> LabelVoters | None:
    """Ask for the answers that vote on labels only; None if the debates' own votes label."""
    if not arm.samples:
        return None
    stage = StageKey(iteration, "label", arm.name, "sampled")
    failed = withdraw_failed(run.store, stage)
    turns_each = arm.train_agents * len(arm.samples)
    answered = _read_answers(run.store, stage)
    plan = StagePlan(
        stage,
        "labels",
        task,
        len(asked),
        [q for q in asked if len(answered[q.question_id]) < turns_each],
        turns_each,
        arm.samples,
    )
    voting = society
    # A stage that is complete needs no society, whose models may have to be averaged first.
    if plan.remaining and arm.asks_others:
        voting = await _find_label_society(run, arm, iteration)
    rules = build_debate_rules(run.config, arm, "sampled")
    await hold_stage(run, arm, voting.first(arm.train_agents), plan, rules, failed)
    asked_for = run.config.for_arm(arm.name).consensus.quorum
    quorum = asked_for or default_quorum(arm.train_agents * arm.label_samples)
    return LabelVoters(_read_answers(run.store, stage), not arm.asks_others, quorum)


def _read_answers(store: Store, stage: StageKey) -> defaultdict[str, list[str | None]]:
    answers: defaultdict[str, list[str | None]] = defaultdict(list)
    for question, answer in store.stream(_ANSWERS, [stage.iteration, stage.arm]):
        answers[question].append(answer)
    return answers


async def _find_label_society(run: RunContext, arm: Arm, iteration: int) -> Society:
    """The society that labels in the place of the debating one; only its generators answer."""
    untuned = run.connections.start_society(arm.agents)
    if arm.lag is None:
        generators = await average_generators(run, arm, iteration - 1)
    else:
        earlier = load_society(run.store, untuned, max(0, iteration - 1 - arm.lag), arm.name)
        generators = [agent.generator for agent in earlier.agents]
    agents = tuple(
        Agent(number, generator, generator) for number, generator in enumerate(generators, start=1)
    )
    return Society(agents, untuned.summarizer)
