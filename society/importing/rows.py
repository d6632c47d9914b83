"""The rows of an imported debate: those that society would have stored for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from evals.answers.thoughts import set_thought_apart
from evals.tasks.base import Task, TaskQuestion
from providers.types import Message
from society.importing.debates import ImportedDebate, ImportedTurn
from society.method.voting import (
    build_tie_key,
    count_round,
    explain_empty,
    judge_debate,
)
from society.prompts import Wording
from store.content import messages_json
from store.records import Turn
from store.tables import Record

NAMELESS = "imported"
"""The model of turns that do not name one."""


def build_rows(
    debate: ImportedDebate,
    question: TaskQuestion,
    task: Task,
    size: tuple[int, int],
    wording: Wording,
    *,
    summarized: bool,
    drop_ties: bool,
    quorum: int,
    seed: int,
) -> list[Record]:
    """The turns, verdicts and votes of a complete debate of `size` (agents, rounds), which may have
    ended early.

    A turn without messages gets the prompt that society would have sent: the task's prompt in round
    1, later the agent's own conversation and the others' responses, or their summary.
    """
    turns: list[Turn] = []
    agents, rounds = size
    held = debate.size[1]
    for number in range(1, held + 1):
        earlier = [t for t in turns if t.round == number - 1 and t.kind == "answer"]
        for agent in range(1, agents + 1):
            others = [turn for turn in earlier if turn.agent != agent]
            # A summary is a turn of its own, before the answer that reads it.
            given_summary = debate.turns.get((agent, number, "summary"))
            summary = None
            if given_summary is not None:
                sent = _as_json(wording.build_summary_messages(others))
                summary = _build_turn(debate, given_summary, sent, task)
                turns.append(summary)
            given = debate.turns[agent, number, "answer"]
            if number == 1:
                sent = _as_json(wording.open_conversation(task, question.text, agent))
            elif given.messages is None:
                read = summary if summarized and others else None
                own = earlier[agent - 1]
                sent = _as_json(wording.build_critic_messages(own, others, read, task.answer_form))
            else:
                sent = given.messages
            turns.append(_build_turn(debate, given, sent, task))
    # Ties are drawn as in a run, so that importing twice gives the same votes.
    drawn = build_tie_key(seed, question.question_id)
    numbers = range(1, held + 1)
    tallies = [count_round(task, debate.stage, turns, number, drawn) for number in numbers]
    decided = judge_debate(
        task,
        debate.stage,
        question,
        turns,
        tallies,
        rounds=rounds,
        drop_ties=drop_ties,
        quorum=quorum,
    )
    return [*turns, *decided]


def _build_turn(debate: ImportedDebate, given: ImportedTurn, sent: str, task: Task) -> Turn:
    stage = debate.stage
    thought, response = set_thought_apart(given.response)
    return Turn(
        iteration=stage.iteration,
        arm=stage.arm,
        split=stage.split,
        decoding=stage.decoding,
        question_id=debate.question_id,
        agent=given.agent,
        round=given.round,
        kind=given.kind,
        model_id=given.model or NAMELESS,
        messages=given.messages or sent,
        response=response,
        thought=thought,
        answer=given.read_answer(task),
        finish_reason=given.finish_reason,
        prompt_tokens=given.prompt_tokens,
        completion_tokens=given.completion_tokens,
        latency_ms=given.latency_ms,
        error=given.error or explain_empty(response, given.finish_reason, thought=thought),
    )


def _as_json(messages: Sequence[Message]) -> str:
    return messages_json([asdict(message) for message in messages])
