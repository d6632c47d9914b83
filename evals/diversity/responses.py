"""The responses of one society, as the store has them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from providers.types import Message, ModelRef
from store.ledger import Store
from store.records import IN_STAGE, AgentRole, StageKey

# Votes are stored when a debate is complete, so a debate that is going on is left out.
_DEBATED = f"""
    select question_id, max(round), max(round) filter (where carried_from is null)
    from votes
    where {IN_STAGE}
      and question_id in (select question_id from questions where task = $task)
    group by question_id
"""
# A left join: without a label there is no verdict, and the response then agrees with nothing.
_SPOKEN = r"""
    select t.question_id, t.agent, t.model_id, m.provider, m.artifact, m.sha256, t.messages,
           t.response, coalesce(v.agrees, false)
    from turns t
    join (select unnest($questions::varchar[]) as question_id) using (question_id)
    join models m using (model_id)
    left join verdicts v using (turn_id)
    where t.iteration = $iteration and t.arm = $arm and t.split = $split
      and t.decoding = $decoding and t.kind = 'answer' and t.round = $round
      and regexp_matches(t.response, '\S')
    order by t.question_id, t.agent
"""


@dataclass(frozen=True, slots=True)
class PromptedText:
    """A text and the conversation it answers, whoever said it."""

    messages: tuple[Message, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Response:
    """What one agent said. `agrees`: its answer is equivalent to the debate's label ŷ."""

    question_id: str
    agent: int
    model: ModelRef
    messages: tuple[Message, ...]
    text: str
    agrees: bool

    @property
    def prompted(self) -> PromptedText:
        return PromptedText(self.messages, self.text)


def read_responses(
    store: Store, stage: StageKey, task: str, limit: int
) -> dict[AgentRole, list[Response]]:
    """The answers of round 1 (generator) and of the last round (critic; only where there are more
    rounds than one) to at most `limit` questions whose debates are complete.

    Debates that ended early have no answers in the last round; critics' are those of the others.
    The questions with the smallest SHA-256 of their id are taken. Blank responses are left out.
    """
    found = store.rows(_DEBATED, {**stage.params, "task": task})
    # The same questions for every society, whatever the order in which they were debated.
    found.sort(key=lambda row: sha256(str(row[0]).encode()).digest())
    last_round = max((int(rounds) for _, rounds, _ in found), default=0)
    whole = [row for row in found if row[1] == last_round]
    responses: dict[AgentRole, list[Response]] = {}
    if last_round:
        chosen = [str(question) for question, *_ in whole[:limit]]
        responses["generator"] = _read_round(store, stage, chosen, 1)
    if last_round > 1:
        held = [str(question) for question, _, held in whole if held == last_round][:limit]
        responses["critic"] = _read_round(store, stage, held, last_round)
    return responses


def _read_round(
    store: Store, stage: StageKey, questions: Sequence[str], number: int
) -> list[Response]:
    rows = store.rows(_SPOKEN, {**stage.params, "questions": list(questions), "round": number})
    return [
        Response(
            question,
            agent,
            ModelRef(model_id, address, artifact, weights),
            tuple(Message(m["role"], m["content"]) for m in json.loads(messages)),
            text,
            agrees,
        )
        for question, agent, model_id, address, artifact, weights, messages, text, agrees in rows
    ]
