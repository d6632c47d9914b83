"""The majority vote that stands in for the missing label (arXiv 2501.05707, section 3.2).

Answers fall into classes by mathematical equivalence; the class with most votes wins. A response
without a readable answer casts no vote. A tie is recorded as a tie. Where one of the tied classes
has to win, a hash decides, which knows nothing of the agents: to let the lowest agent number win
would make that agent the one who dissents least.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Equivalent = Callable[[str, str], bool]


@dataclass(frozen=True, slots=True)
class Tally:
    """The outcome of one vote. `members` are the distinct answers of the winning class.

    `answer` represents the class: its most frequent wording, then the shortest, then the first in
    alphabetical order, so it does not depend on who said it. None: nobody gave an answer.
    """

    answer: str | None
    members: frozenset[str]
    votes: int
    voters: int
    tie: bool


def lot(seed: int, question_id: str) -> str:
    """What decides the ties of a question in a run of this seed, see `vote`."""
    return json.dumps([seed, question_id])


def vote(answers: Sequence[str | None], equivalent: Equivalent, lot: str | None = None) -> Tally:
    """Count the agents' answers, given in the order of the agents.

    Of tied classes that one wins whose answer, hashed together with `lot`, comes first; without a
    lot that of the lowest agent number.
    """
    cast = [answer for answer in answers if answer is not None]
    if not cast:
        return Tally(None, frozenset(), 0, 0, False)
    counts = Counter(cast)
    classes = _classes(list(counts), equivalent)
    sizes = [sum(counts[answer] for answer in members) for members in classes]
    most = max(sizes)
    leading = [members for members, size in zip(classes, sizes, strict=True) if size == most]

    def spelling(members: Sequence[str]) -> str:
        return min(members, key=lambda text: (-counts[text], len(text), text))

    if lot is None:
        winner = min(leading, key=lambda members: min(cast.index(answer) for answer in members))
    else:
        winner = min(leading, key=lambda members: _drawn(lot, spelling(members)))
    return Tally(spelling(winner), frozenset(winner), most, len(cast), len(leading) > 1)


def agrees(answer: str | None, tally: Tally, equivalent: Equivalent) -> bool:
    """Whether an answer belongs to the winning class, also one from an earlier round."""
    if answer is None:
        return False
    return answer in tally.members or any(equivalent(answer, m) for m in tally.members)


def _drawn(lot: str, answer: str) -> bytes:
    return hashlib.blake2b(f"{lot}\n{answer}".encode(), digest_size=16).digest()


def _classes(distinct: list[str], equivalent: Equivalent) -> list[list[str]]:
    # Connected components over all pairs: a judge that is not transitive still gives
    # classes that do not depend on the order of the agents.
    classes: list[list[str]] = []
    for answer in distinct:
        joined = [c for c in classes if any(equivalent(answer, other) for other in c)]
        merged = [answer, *(other for c in joined for other in c)]
        classes = [c for c in classes if c not in joined] + [merged]
    return classes
