"""One debate read from a run: what the viewer, the report and its examples show of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby

from evals.stored_run import Queryable
from providers.types import Message
from store.records import IN_STAGE, StageKey

_TURNS = f"""
    SELECT turn_id, round, agent, kind, model_id, messages::VARCHAR, response, answer,
        finish_reason, prompt_tokens, completion_tokens, latency_ms, error, created_at,
        shared_turn_id, thought
    FROM turns WHERE {IN_STAGE} AND question_id = $question_id ORDER BY round, agent
"""
_VOTES = f"""
    SELECT round, answer, votes, voters, tie, correct, carried_from
    FROM votes WHERE {IN_STAGE} AND question_id = $question_id
"""
_QUESTION = """
    SELECT question, task, gold, position, meta FROM questions WHERE question_id = $question_id
"""
_VERDICTS = """
    SELECT turn_id, agrees, correct FROM verdicts WHERE turn_id IN (SELECT unnest($ids))
"""


@dataclass(frozen=True, slots=True)
class DebateTurn:
    """One response, the messages that were sent for it, and what its answer is worth.

    `kind` is answer or summary; a summary neither agrees nor is correct. `shared_turn_id` names the
    turn of another arm that this one was taken over from. `thought` is what stands apart from the
    response.
    """

    turn_id: int
    round: int
    agent: int
    kind: str
    model_id: str
    messages: tuple[Message, ...]
    response: str
    answer: str | None
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    latency_ms: float
    error: str | None
    created_at: datetime
    shared_turn_id: int | None
    thought: str | None
    agrees: bool | None
    correct: bool | None


@dataclass(frozen=True, slots=True)
class RoundVote:
    """The vote of one round: `votes` of `voters` readable answers are for `answer`.

    `carried_from` names the round whose vote it repeats, where the debate had ended before.
    """

    round: int
    answer: str | None
    votes: int
    voters: int
    tie: bool
    correct: bool | None
    carried_from: int | None = None


@dataclass(frozen=True, slots=True)
class DebateRound:
    """One round, its turns by agent; `vote` is None until the debate is complete."""

    number: int
    answers: tuple[DebateTurn, ...]
    summaries: tuple[DebateTurn, ...]
    vote: RoundVote | None

    def summary_for(self, agent: int) -> DebateTurn | None:
        """The summary of the other agents' responses that this agent was shown, if any."""
        return next((turn for turn in self.summaries if turn.agent == agent), None)


@dataclass(frozen=True, slots=True)
class DebateRecord:
    """One question as one society debated it.

    `question`, `task` and `gold` are None, and `position` is -1, if the run does not store the
    question. `rounds` are those that were held, `left_out` counts the others: the debate ended once
    all agents agreed. `label_vote` is the vote of its own that labels a training debate, if any.
    """

    stage: StageKey
    question_id: str
    question: str | None
    task: str | None
    gold: str | None
    position: int
    meta: str | None
    rounds: tuple[DebateRound, ...]
    left_out: int = 0
    label_vote: RoundVote | None = None

    @property
    def agents(self) -> tuple[int, ...]:
        return tuple(sorted({turn.agent for turn in self.turns}))

    @property
    def turns(self) -> list[DebateTurn]:
        """All turns, by round; within a round the answers come first."""
        return [
            turn for number in self.rounds for turn in (*number.answers, *number.summaries)
        ]  # fmt: skip


def read_debate(source: Queryable, stage: StageKey, question_id: str) -> DebateRecord | None:
    """One debate as far as it is stored; None if it has no turn.

    debate = read_debate(store, StageKey(1, "eval", "multiagent"), "gsm8k:test:17")
    print(debate.rounds[-1].vote)
    """
    params = stage.params | {"question_id": question_id}
    turns = _read_turns(source, params)
    if not turns:
        return None
    # A debate that goes on has turns but no votes yet; votes are written when it is complete.
    votes = {vote[0]: RoundVote(*vote) for vote in source.rows(_VOTES, params)}
    rounds = [
        _build_round(number, list(spoken), votes.get(number))
        for number, spoken in groupby(turns, key=lambda turn: turn.round)
    ]
    # A debate is shown even if the run does not store its question.
    about = source.rows(_QUESTION, {"question_id": question_id})
    question, task, gold, position, meta = about[0] if about else (None, None, None, -1, None)
    left_out = sum(vote.carried_from is not None for vote in votes.values())
    return DebateRecord(
        stage, question_id, question, task, gold, position, meta, tuple(rounds), left_out,
        _read_label_vote(source, stage, question_id),
    )  # fmt: skip


def _read_label_vote(source: Queryable, stage: StageKey, question_id: str) -> RoundVote | None:
    if stage.split != "train":
        return None
    params = replace(stage, split="label").params | {"question_id": question_id}
    found = source.rows(_VOTES, params)
    return RoundVote(*found[0]) if found else None


def read_verdicts(
    source: Queryable, turn_ids: Sequence[int]
) -> dict[int, tuple[bool | None, bool | None]]:
    """Whether turns agree with their debate's label, and whether they are correct, by turn_id."""
    if not turn_ids:
        return {}
    found = source.rows(_VERDICTS, {"ids": list(turn_ids)})
    return {turn_id: (agrees, correct) for turn_id, agrees, correct in found}


def _read_turns(source: Queryable, params: dict[str, object]) -> list[DebateTurn]:
    rows = source.rows(_TURNS, params)
    # In a query of its own, so that DuckDB looks up these few ids instead of joining both tables.
    verdicts = read_verdicts(source, [row[0] for row in rows])
    turns = []
    for row in rows:
        agrees, correct = verdicts.get(row[0], (None, None))
        fields = (*row[:5], _parse_messages(row[5]), *row[6:], agrees, correct)
        turns.append(DebateTurn(*fields))
    return turns


def _parse_messages(text: str) -> tuple[Message, ...]:
    return tuple(Message(one["role"], one["content"]) for one in json.loads(text))


def _build_round(number: int, turns: Sequence[DebateTurn], vote: RoundVote | None) -> DebateRound:
    return DebateRound(
        number,
        tuple(turn for turn in turns if turn.kind == "answer"),
        tuple(turn for turn in turns if turn.kind == "summary"),
        vote,
    )
