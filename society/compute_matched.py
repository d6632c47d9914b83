"""How many samples cost as much as a debate: votes that are matched in compute to the society."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from society.arms import Arm
from store.ledger import Store

_TOKENS = """
SELECT
    sum(prompt_tokens + completion_tokens) / count(DISTINCT question_id),
    avg(prompt_tokens + completion_tokens) FILTER (WHERE round = 1 AND finish_reason <> 'error')
FROM turns
WHERE arm = ? AND iteration = 0 AND split = 'eval' AND decoding = 'sampled'
    AND question_id IN (SELECT question_id FROM questions WHERE NOT zero_shot)
"""


def in_order(arms: Sequence[Arm]) -> list[Arm]:
    """The arms as they are evaluated first: what others are matched to comes before them."""
    return sorted(arms, key=lambda arm: arm.matched_to == "tokens")


def samples_for_tokens(store: Store, arm: str) -> int | None:
    """How many single answers cost as many tokens as one debate of the untuned society.

    Prompt and response tokens together, means over the sampled evaluation of the run's own task,
    rounded up. None where no answer tells its tokens.
    """
    [(debate, sample)] = store.rows(_TOKENS, [arm])
    return max(1, ceil(float(debate) / float(sample))) if debate and sample else None
