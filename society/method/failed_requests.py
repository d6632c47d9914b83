"""Failed requests are sent again when a run is resumed, as long as nothing was built on them.

A turn builds on all turns of the rounds before, which its prompt shows, and on its own summary. So
a failed turn is withdrawn if every turn that builds on it failed too, and if nothing was made of
the whole stage: no dataset, no measure of diversity, no sample count of another arm.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from store.ledger import Store
from store.records import IN_STAGE, StageKey, Turn

# All turns of the debates with a failed request: whether one can be withdrawn depends on the rest.
_TURNS = f"""
WITH stage AS (
    SELECT turn_id, question_id, agent, round, kind, failure
    FROM turns
    WHERE {IN_STAGE}
)
SELECT * FROM stage
WHERE question_id IN (SELECT question_id FROM stage WHERE failure IN ('passing', 'refused'))
"""

# Datasets and diversity are computed from a whole stage. The sample count of a token-matched arm is
# computed from the untuned evaluation of another arm, and fixed once the matched arm has answered.
_BUILT_ON = """
SELECT
    $split <> 'eval'
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
class _StoredTurn:
    turn_id: int
    question_id: str
    agent: int
    round: int
    kind: str
    failure: str | None

    def builds_on(self, other: _StoredTurn) -> bool:
        """Whether the prompt of this turn shows the other one."""
        # Within a round an agent's answer shows the summary that was written for it.
        if self.round == other.round:
            own = self.agent == other.agent
            return own and (self.kind, other.kind) == ("answer", "summary")
        return self.round > other.round


def withdraw_failed(store: Store, stage: StageKey) -> dict[int, Turn]:
    """Remove the failed turns of a stage that can be requested again; returns them by their ids."""
    debates: defaultdict[str, list[_StoredTurn]] = defaultdict(list)
    for row in store.rows(_TURNS, stage.params):
        turn = _StoredTurn(*row)
        debates[turn.question_id].append(turn)
    if not debates or store.rows(_BUILT_ON, stage.params) == [(True,)]:
        return {}
    free = {turn_id for debate in debates.values() for turn_id in _find_free(debate)}
    taken = {turn.turn_id: turn for turn in store.turns(stage) if turn.turn_id in free}
    if taken:
        store.remove_failed_turns(sorted(taken))
    return taken


def _find_free(debate: Iterable[_StoredTurn]) -> set[int]:
    turns, free = list(debate), set()
    for turn in turns:
        # Turns that failed because of this one go with it; one good answer keeps it in place.
        after = [other for other in turns if other.builds_on(turn)]
        if turn.failure in ("passing", "refused") and all(other.failure for other in after):
            free |= {turn.turn_id, *(other.turn_id for other in after)}
    return free
