"""Debates to read: what debate and tuning turned right, and what they turned wrong.

A hash of the question id chooses them, so that they are not picked for their looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256

from evals.debates import DebateRecord, read_debate
from store.ledger import Store
from store.records import Decoding, StageKey

# The last round is that of the arm: all of its debates have equally many rounds.
_OUTCOMES = """
    select question_id, iteration,
           coalesce(bool_or(correct) filter (round = 1), false),
           coalesce(bool_or(correct) filter (round = (
               select max(round) from votes where arm = ? and split = 'eval')), false)
    from votes
    where arm = ? and split = 'eval' and decoding = ? and iteration in (?, ?)
      and correct is not null
      and question_id in (select question_id from questions where not is_extra)
    group by question_id, iteration
"""


@dataclass(frozen=True, slots=True)
class DebateExample:
    """A question with one debate, or with the untuned and the tuned society's debate."""

    title: str
    question: str
    gold: str | None
    debates: tuple[DebateRecord, ...]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """Whether the first and the last vote were right, before tuning and after."""

    untuned: tuple[bool, bool]
    tuned: tuple[bool, bool]


# What helped and what hurt alike, so that the page does not show successes only.
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


def choose_examples(
    store: Store, arm: str, decoding: Decoding, first: int, last: int, per_kind: int = 2
) -> list[DebateExample]:
    """Up to `per_kind` examples of every kind, from the questions that the societies after
    iterations `first` and `last` both debated."""
    outcomes = _read_outcomes(store, arm, decoding, first, last)
    examples = []
    for title, fits, both in _KINDS:
        found = [question for question in outcomes if fits(outcomes[question])]
        for question in found[:per_kind]:
            iterations = (first, last) if both and first != last else (last,)
            stages = [StageKey(iteration, "eval", arm, decoding) for iteration in iterations]
            debates = tuple(_read_debates(store, stages, question))
            examples.append(
                DebateExample(title, debates[0].question or "", debates[0].gold, debates)
            )
    return examples


def _read_debates(store: Store, stages: list[StageKey], question_id: str) -> Iterator[DebateRecord]:
    for stage in stages:
        if (found := read_debate(store, stage, question_id)) is not None:
            yield found


def _read_outcomes(
    store: Store, arm: str, decoding: Decoding, first: int, last: int
) -> dict[str, _Outcome]:
    found: dict[str, dict[int, tuple[bool, bool]]] = {}
    for question, iteration, *votes in store.rows(_OUTCOMES, [arm, arm, decoding, first, last]):
        found.setdefault(str(question), {})[int(iteration)] = (bool(votes[0]), bool(votes[1]))
    complete = [q for q, seen in found.items() if first in seen and last in seen]
    # A hash orders the questions in the same way on every machine, and independently of their
    # content.
    complete.sort(key=lambda question: sha256(question.encode()).digest())
    return {q: _Outcome(found[q][first], found[q][last]) for q in complete}
