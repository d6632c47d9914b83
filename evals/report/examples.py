"""Debates to read: what debate and tuning turned right, and what they turned wrong.

They are taken by the hash of the question id, so that nobody has picked the nice ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from evals.arm_kinds import MULTIAGENT
from evals.metrics import Decoding
from store.ledger import Store

_OUTCOMES = """
    select question_id, iteration,
           coalesce(bool_or(correct) filter (round = 1), false),
           coalesce(bool_or(correct) filter (round = (
               select max(round) from votes where arm = ?)), false)
    from votes
    where arm = ? and split = 'eval' and decoding = ? and iteration in (?, ?)
      and correct is not null
      and question_id in (select question_id from questions where not is_extra)
    group by question_id, iteration
"""
_TURNS = """
    select t.round, t.agent, t.kind, t.model_id, t.response, t.answer, t.finish_reason, v.correct
    from turns t left join verdicts v using (turn_id)
    where t.arm = ? and t.split = 'eval' and t.decoding = ? and t.iteration = ?
      and t.question_id = ?
    order by t.round, t.kind desc, t.agent
"""
_VOTES = """
    select answer, votes, voters, tie, correct
    from votes
    where arm = ? and split = 'eval' and decoding = ? and iteration = ? and question_id = ?
    order by round
"""


@dataclass(frozen=True, slots=True)
class Turn:
    """One response; `kind` is answer or summary, and a summary is never right or wrong."""

    round: int
    agent: int
    kind: str
    model_id: str
    response: str
    answer: str | None
    finish_reason: str
    correct: bool | None


@dataclass(frozen=True, slots=True)
class Vote:
    """The vote of one round: `votes` of `voters` readable answers for `answer`."""

    answer: str | None
    votes: int
    voters: int
    tie: bool
    correct: bool | None


@dataclass(frozen=True, slots=True)
class Debate:
    """One question as one society debated it; `votes` holds every round's vote."""

    iteration: int
    turns: tuple[Turn, ...]
    votes: tuple[Vote, ...]

    @property
    def rounds(self) -> list[tuple[int, list[Turn], Vote]]:
        return [
            (number, [turn for turn in self.turns if turn.round == number], vote)
            for number, vote in enumerate(self.votes, start=1)
        ]


@dataclass(frozen=True, slots=True)
class Example:
    """A question with one debate, or with the untuned and the tuned society's debate."""

    title: str
    question: str
    gold: str | None
    debates: tuple[Debate, ...]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """Whether the first and the last vote were right, before tuning and after."""

    untuned: tuple[bool, bool]
    tuned: tuple[bool, bool]


_KINDS: tuple[tuple[str, Callable[[_Outcome], bool], bool], ...] = (
    (
        "Tuning helped: the untuned society is wrong, the tuned one right",
        lambda o: not o.untuned[1] and o.tuned[1],
        True,
    ),
    (
        "Tuning hurt: the untuned society is right, the tuned one wrong",
        lambda o: o.untuned[1] and not o.tuned[1],
        True,
    ),
    (
        "Debate helped: the tuned society's first vote is wrong, its last right",
        lambda o: not o.tuned[0] and o.tuned[1],
        False,
    ),
    (
        "Debate hurt: the tuned society's first vote is right, its last wrong",
        lambda o: o.tuned[0] and not o.tuned[1],
        False,
    ),
)


def choose(
    store: Store,
    decoding: Decoding,
    first: int,
    last: int,
    per_kind: int = 2,
    arm: str = MULTIAGENT,
) -> list[Example]:
    """Up to `per_kind` examples of every kind, from the questions both societies debated."""
    outcomes = _outcomes(store, arm, decoding, first, last)
    examples = []
    for title, fits, both in _KINDS:
        found = [question for question in outcomes if fits(outcomes[question])]
        for question in found[:per_kind]:
            iterations = (first, last) if both and first != last else (last,)
            debates = tuple(_debate(store, arm, decoding, i, question) for i in iterations)
            [(text, gold)] = store.rows(
                "select question, gold from questions where question_id = ?", [question]
            )
            examples.append(Example(title, str(text), gold, debates))
    return examples


def _outcomes(
    store: Store, arm: str, decoding: Decoding, first: int, last: int
) -> dict[str, _Outcome]:
    found: dict[str, dict[int, tuple[bool, bool]]] = {}
    for question, iteration, *votes in store.rows(_OUTCOMES, [arm, arm, decoding, first, last]):
        found.setdefault(str(question), {})[int(iteration)] = (bool(votes[0]), bool(votes[1]))
    complete = [q for q, seen in found.items() if first in seen and last in seen]
    complete.sort(key=lambda question: sha256(question.encode()).digest())
    return {q: _Outcome(found[q][first], found[q][last]) for q in complete}


def _debate(store: Store, arm: str, decoding: Decoding, iteration: int, question: str) -> Debate:
    where: Sequence[object] = [arm, decoding, iteration, question]
    return Debate(
        iteration,
        tuple(Turn(*row) for row in store.rows(_TURNS, where)),
        tuple(Vote(*row) for row in store.rows(_VOTES, where)),
    )
