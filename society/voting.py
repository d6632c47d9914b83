"""The majority vote that stands in for the missing label (arXiv 2501.05707, section 3.2).

Answers fall into classes by mathematical equivalence; the class with most votes wins. A response
without a readable answer casts no vote. A tie is recorded as a tie, and the tied class whose first
supporter has the lowest agent number is named as winner.
"""

from __future__ import annotations

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


def vote(answers: Sequence[str | None], equivalent: Equivalent) -> Tally:
    """Count the agents' answers, given in the order of the agents."""
    cast = [answer for answer in answers if answer is not None]
    if not cast:
        return Tally(None, frozenset(), 0, 0, False)
    counts = Counter(cast)
    classes = _classes(list(counts), equivalent)
    sizes = [sum(counts[answer] for answer in members) for members in classes]
    most = max(sizes)
    leading = [members for members, size in zip(classes, sizes, strict=True) if size == most]
    winner = min(leading, key=lambda members: min(cast.index(answer) for answer in members))
    answer = min(winner, key=lambda text: (-counts[text], len(text), text))
    return Tally(answer, frozenset(winner), most, len(cast), len(leading) > 1)


def agrees(answer: str | None, tally: Tally, equivalent: Equivalent) -> bool:
    """Whether an answer belongs to the winning class, also one from an earlier round."""
    if answer is None:
        return False
    return answer in tally.members or any(equivalent(answer, m) for m in tally.members)


def _classes(distinct: list[str], equivalent: Equivalent) -> list[list[str]]:
    # Connected components over all pairs: a judge that is not transitive still gives
    # classes that do not depend on the order of the agents.
    classes: list[list[str]] = []
    for answer in distinct:
        joined = [c for c in classes if any(equivalent(answer, other) for other in c)]
        merged = [answer, *(other for c in joined for other in c)]
        classes = [c for c in classes if c not in joined] + [merged]
    return classes
