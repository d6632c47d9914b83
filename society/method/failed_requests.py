"""Requests that failed are asked again when a run is started again, while nothing rests on them.

A turn rests on all turns of the rounds before, which its prompt shows, and on its own summary. So a
failed turn is taken back where what came after it in its debate failed too, and where nothing was
made of the whole stage: no dataset, no measure of diversity, no size of another arm.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from store.ledger import Store
from store.records import IN_STAGE, StageKey, Turn

_TURNS = f"""
WITH stage AS (
    SELECT turn_id, question_id, agent, round, kind, failure
    FROM turns
    WHERE {IN_STAGE}
)
SELECT * FROM stage
WHERE question_id IN (SELECT question_id FROM stage WHERE failure IN ('passing', 'refused'))
"""

_BUILT_UPON = """
SELECT
    $split = 'train'
        AND EXISTS (FROM datasets WHERE iteration = $iteration AND arm = $arm)
    OR $split = 'eval' AND EXISTS (
        FROM diversity
        WHERE iteration = $iteration AND arm = $arm AND decoding = $decoding
    )
    OR $split = 'eval' AND $iteration = 0 AND EXISTS (
        FROM turns SEMI JOIN (FROM arms WHERE settings ->> 'matched_to' = 'tokens') USING (arm)
        WHERE arm <> $arm
    )
"""


@dataclass(frozen=True, slots=True)
class _Stored:
    turn_id: int
    question_id: str
    agent: int
    round: int
    kind: str
    failure: str | None

    def rests_on(self, other: _Stored) -> bool:
        """Whether the prompt of this turn shows the other one."""
        if self.round == other.round:
            own = self.agent == other.agent
            return own and (self.kind, other.kind) == ("answer", "summary")
        return self.round > other.round


def take_back(store: Store, stage: StageKey) -> dict[int, Turn]:
    """Remove from a stage the failed turns that can be asked again; returns them by their ids."""
    debates: defaultdict[str, list[_Stored]] = defaultdict(list)
    for row in store.rows(_TURNS, stage.params):
        turn = _Stored(*row)
        debates[turn.question_id].append(turn)
    if not debates or store.rows(_BUILT_UPON, stage.params) == [(True,)]:
        return {}
    free = {turn_id for debate in debates.values() for turn_id in _free(debate)}
    taken = {turn.turn_id: turn for turn in store.turns(stage) if turn.turn_id in free}
    if taken:
        store.withdraw(sorted(taken))
    return taken


def _find_free(debate: Iterable[_Stored]) -> set[int]:
    turns, free = list(debate), set()
    for turn in turns:
        after = [other for other in turns if other.rests_on(turn)]
        if turn.failure in ("passing", "refused") and all(other.failure for other in after):
            free |= {turn.turn_id, *(other.turn_id for other in after)}
    return free
