"""One debate in full: every response, what was sent for it, the votes, and what learnt from it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from society.view import debates
from society.view.filters import BadAddress, stage_title
from society.view.words import Piece, differences
from store.reader import Reader
from store.records import IN_STAGE, StageKey


class NotFound(LookupError):
    """What an address names is not in the run."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a prompt as it was sent."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Use:
    """A dataset that a turn is an example of."""

    dataset_id: str
    position: int


@dataclass(frozen=True, slots=True)
class Said:
    """One response. `revision` compares it with the same agent's answer in the round before."""

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
    agrees: bool | None
    correct: bool | None
    uses: tuple[Use, ...]
    revision: tuple[Piece, ...] | None


@dataclass(frozen=True, slots=True)
class Voted:
    """The vote of one round."""

    round: int
    answer: str | None
    votes: int
    voters: int
    tie: bool
    correct: bool | None


@dataclass(frozen=True, slots=True)
class Round:
    """One round: a row of the grid. `vote` is None while the debate goes on."""

    number: int
    answers: tuple[Said, ...]
    summaries: tuple[Said, ...]
    vote: Voted | None

    def summary_for(self, agent: int) -> Said | None:
        """What this agent was shown of the others, where it was a summary."""
        return next((said for said in self.summaries if said.agent == agent), None)


@dataclass(frozen=True, slots=True)
class Debate:
    """One question as one society debated it."""

    stage: StageKey
    question_id: str
    question: str | None
    task: str | None
    gold: str | None
    place: int
    meta: str | None
    rounds: tuple[Round, ...]
    agents: tuple[int, ...]
    others: tuple[StageKey, ...]

    @property
    def key(self) -> debates.DebateKey:
        """Its place in the list of debates."""
        return debates.DebateKey(self.stage, self.place, self.question_id)


def read(reader: Reader, stage: StageKey, question_id: str) -> Debate:
    """One debate; raises `NotFound`."""
    said = _said(reader, stage, question_id)
    if not said:
        raise NotFound(f"no debate on question {question_id!r} ({stage_title(stage)})")
    votes = {
        vote[0]: Voted(*vote)
        for vote in reader.rows(
            "SELECT round, answer, votes, voters, tie, correct FROM votes "
            f"WHERE {IN_STAGE} AND question_id = $question_id",
            {**stage.params, "question_id": question_id},
        )
    }
    rounds: dict[int, list[Said]] = defaultdict(list)
    for one in said:
        rounds[one.round].append(one)
    about = reader.rows(
        "SELECT question, task, gold, position, meta FROM questions WHERE question_id = $1",
        [question_id],
    )
    question, task, gold, place, meta = about[0] if about else (None, None, None, -1, None)
    return Debate(
        stage,
        question_id,
        question,
        task,
        gold,
        place,
        meta,
        tuple(_round(number, rounds[number], votes.get(number)) for number in sorted(rounds)),
        tuple(sorted({one.agent for one in said})),
        tuple(other for other in _stages(reader, question_id) if other != stage),
    )


def turn_text(reader: Reader, turn_id: int) -> str:
    """A turn's whole response; raises `NotFound`."""
    found = reader.rows("SELECT response FROM turns WHERE turn_id = $1", [turn_id])
    if not found:
        raise NotFound(f"no turn {turn_id}")
    return str(found[0][0])


def of_turn(reader: Reader, turn_id: int) -> tuple[StageKey, str]:
    """The debate that a turn belongs to; raises `NotFound`."""
    found = reader.rows(
        "SELECT iteration, split, arm, decoding, question_id FROM turns WHERE turn_id = $1",
        [turn_id],
    )
    if not found:
        raise NotFound(f"no turn {turn_id}")
    return StageKey(*found[0][:4]), str(found[0][4])


def messages(text: str) -> tuple[Message, ...]:
    """A prompt from the JSON it is stored as."""
    return tuple(Message(str(m["role"]), str(m["content"])) for m in json.loads(text))


def _round(number: int, said: Sequence[Said], vote: Voted | None) -> Round:
    return Round(
        number,
        tuple(one for one in said if one.kind == "answer"),
        tuple(one for one in said if one.kind == "summary"),
        vote,
    )


def _stages(reader: Reader, question_id: str) -> list[StageKey]:
    found = reader.rows(
        "SELECT DISTINCT iteration, split, arm, decoding FROM votes WHERE question_id = $1 "
        "ORDER BY arm, decoding DESC, iteration",
        [question_id],
    )
    return [StageKey(*row) for row in found]


def _said(reader: Reader, stage: StageKey, question_id: str) -> list[Said]:
    turns = reader.rows(
        "SELECT turn_id, round, agent, kind, model_id, messages::VARCHAR, response, answer, "
        "finish_reason, prompt_tokens, completion_tokens, latency_ms, error, created_at, "
        f"shared_turn_id FROM turns WHERE {IN_STAGE} AND question_id = $question_id "
        "ORDER BY round, agent",
        {**stage.params, "question_id": question_id},
    )
    ids = [int(turn[0]) for turn in turns]
    worth = debates.verdicts(reader, ids)
    uses = _uses(reader, ids)
    earlier = {(turn[1], turn[2]): turn[6] for turn in turns if turn[3] == "answer"}
    return [
        Said(
            *debates.joined(
                *turn[:5],
                messages(turn[5]),
                *turn[6:],
                *worth.get(turn[0], (None, None)),
                tuple(uses[turn[0]]),
                _revision(earlier.get((turn[1] - 1, turn[2])), turn[6])
                if turn[3] == "answer"
                else None,
            )
        )
        for turn in turns
    ]


def _uses(reader: Reader, ids: Sequence[int]) -> dict[int, list[Use]]:
    uses: dict[int, list[Use]] = defaultdict(list)
    if ids:
        for turn_id, dataset_id, position in reader.rows(
            "SELECT turn_id, dataset_id, position FROM dataset_examples "
            "WHERE turn_id IN (SELECT unnest($ids)) ORDER BY dataset_id",
            {"ids": list(ids)},
        ):
            uses[turn_id].append(Use(dataset_id, position))
    return uses


def _revision(before: str | None, after: str) -> tuple[Piece, ...] | None:
    if before is None:
        return None
    found = differences(before, after)
    return None if found is None else tuple(found)


def asked(query_question: str | None) -> str:
    """The question an address names. Raises `BadAddress`."""
    if not query_question:
        raise BadAddress("the address must name a question")
    return query_question
