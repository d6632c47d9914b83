"""Whether an iteration's labels come from the last round of its debates or from the first.

Debate gathers the agents of an untuned society behind one answer. Critics that have come to do harm
scatter them: fewer agents are with the vote after the last round than before, and the last vote is
then wrong more often than the first. This sign needs no gold. With `society.skip_rounds` it is read
from the training debates of every iteration, once all are complete and before any dataset is made.
"""

from __future__ import annotations

import asyncio

from evals.agreement import compare_rounds
from evals.tasks.base import Task
from society.method.arms import Arm
from society.method.experiment import RunContext
from society.method.voting import agrees, count_votes
from store.label_rounds import LabelRound, find_label_round, store_label_round
from store.ledger import Store
from store.records import IN_STAGE, StageKey

# Labels that have been learnt from stay what they were.
_LEARNT = "SELECT 1 FROM datasets WHERE iteration = ? AND arm = ? LIMIT 1"
_ANSWERS = f"""
SELECT question_id, label, list(turn_id ORDER BY round, agent),
    list(turns.answer ORDER BY round, agent),
    list(turns.answer ORDER BY agent) FILTER (round = 1)
FROM turns
JOIN (
    SELECT question_id, answer AS label FROM votes WHERE {IN_STAGE} AND round = 1
) USING (question_id)
WHERE {IN_STAGE} AND kind = 'answer'
GROUP BY ALL
"""


async def choose_label_round(run: RunContext, arm: Arm, stage: StageKey, task: Task) -> None:
    """Decide which round labels the stage, unless that is settled, and tell the user."""
    store = run.store
    if not arm.may_skip_rounds or find_label_round(store, stage.iteration, arm.name) is not None:
        return
    if store.rows(_LEARNT, [stage.iteration, arm.name]):
        return
    change = compare_rounds(store, stage, arm.train_agents)
    if change is None:
        return
    harmful = change.difference < 0
    decided = LabelRound(
        iteration=stage.iteration,
        arm=arm.name,
        round=1 if harmful else arm.rounds,
        questions=change.total,
        first_share=change.before,
        last_share=change.after,
        low=change.low,
        high=change.high,
    )
    judged = await asyncio.to_thread(_judge_by_first_round, store, stage, task) if harmful else None
    await asyncio.to_thread(store_label_round, store, decided, judged)
    if harmful:
        run.progress.note(
            f"{run.prefix(arm.name)}the labels of iteration {stage.iteration} come from round 1: "
            f"{100 * change.before:.1f} % of the agents are with its vote, "
            f"{100 * change.after:.1f} % with that of the last round (difference "
            f"{100 * change.difference:+.1f} points, 95 % interval {100 * change.low:+.1f} to "
            f"{100 * change.high:+.1f}, {change.total} questions)"
        )


def _judge_by_first_round(store: Store, stage: StageKey, task: Task) -> dict[int, bool | None]:
    """Whether each answer agrees with its question's vote of round 1, by turn; None without one."""
    judged: dict[int, bool | None] = {}
    for _, label, turn_ids, answers, firsts in store.rows(_ANSWERS, stage.params):
        tally = count_votes(firsts, task.equivalent)
        for turn_id, answer in zip(turn_ids, answers, strict=True):
            known = label is not None
            judged[int(turn_id)] = agrees(answer, tally, task.equivalent) if known else None
    return judged
