"""The answers of an arm's societies to the same held-out questions, side by side and without gold.

Every society of an arm answers the same evaluation questions, so that two iterations can be
compared question by question. Equal answers are one class, by the task's own rule: one answer may
be worded differently in two iterations. No gold answer is read.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from evals.stored_run import Queryable

Equivalent = Callable[[str, str], bool]
"""Whether two answers are the same, by the task's rule."""

# The columns `gold` and `correct` are not among these: what is decided here must not know them.
# Only complete debates count (those with votes).
_ANSWERS = """
    with asked as (
        select question_id from questions where split = 'eval' and not is_extra
    ),

    decided as (
        select distinct iteration, question_id
        from votes semi join asked using (question_id)
        where arm = $arm and split = 'eval' and decoding = 'sampled' and iteration <= $last
    )

    select iteration, question_id, agent, answer
    from turns semi join decided using (iteration, question_id)
    where arm = $arm and split = 'eval' and decoding = 'sampled' and kind = 'answer'
    order by question_id, iteration, agent, round
"""


@dataclass(slots=True)
class Ballot:
    """What the agents of one society said to one question, each agent's answers in their order.

    An answer is the number of its class, None one that could not be read.
    """

    answers: dict[int, list[int | None]] = field(default_factory=lambda: defaultdict(list))

    @property
    def first(self) -> dict[int, int | None]:
        """Every agent's answer in round 1."""
        return {agent: given[0] for agent, given in self.answers.items()}

    def count_last(self, without: int | None = None) -> Counter[int]:
        """The readable last answers, of all agents or of all but one."""
        others = (given for agent, given in self.answers.items() if agent != without)
        return Counter(given[-1] for given in others if given[-1] is not None)


@dataclass(frozen=True, slots=True)
class Ballots:
    """The ballots of one society by question; `wordings` says what the classes are, by question."""

    iteration: int
    by_question: Mapping[str, Ballot]
    wordings: Mapping[str, list[str]]


def read_ballots(source: Queryable, arm: str, last: int, equivalent: Equivalent) -> list[Ballots]:
    """The sampled ballots of every society up to iteration `last`.

    They are those on the run's own questions, as far as all of the societies have answered them.
    """
    found: defaultdict[int, defaultdict[str, Ballot]] = defaultdict(lambda: defaultdict(Ballot))
    classes = _Classes(equivalent)
    for iteration, question, agent, answer in source.rows(_ANSWERS, {"arm": arm, "last": last}):
        found[iteration][question].answers[agent].append(classes.number(question, answer))
    shared = set.intersection(*map(set, found.values())) if found else set()
    return [
        Ballots(k, {q: found[k][q] for q in sorted(shared)}, classes.wordings)
        for k in sorted(found)
    ]


class _Classes:
    """Numbers the answers to each question, equal ones alike; `wordings` has one of each."""

    def __init__(self, equivalent: Equivalent) -> None:
        self._equivalent = equivalent
        self._known: defaultdict[str, dict[str, int]] = defaultdict(dict)
        self.wordings: defaultdict[str, list[str]] = defaultdict(list)

    def number(self, question: str, answer: str | None) -> int | None:
        if answer is None:
            return None
        known, wordings = self._known[question], self.wordings[question]
        if answer not in known:
            same = (n for n, other in enumerate(wordings) if self._equivalent(answer, other))
            known[answer] = next(same, len(wordings))
            if known[answer] == len(wordings):
                wordings.append(answer)
        return known[answer]
