"""Which of an arm's societies is the best, and when to stop: told by their votes, without gold.

Training on one's own votes rises and then falls (arXiv 2603.08660, 2605.19444), and agreement does
not show it: a society that learns its errors agrees more and more. So the first two societies, the
untuned one and that of iteration 1, are the jury. They have answered the same held-out questions
before errors could build up, and no later iteration has changed what they said. `support` is how
often a first answer of a juror is the last vote of a society: of its other agents, since an agent
would speak for itself.

Jurors are right more often together than their errors coincide. A society that turns wrong votes
right gains the support of those who were right, and one that turns to new errors loses it. A
society that comes to agree on one answer for all questions loses it too. What no juror answers
rightly counts neither for a society nor against it. The untuned agents alone would be the purer
jury, but are too weak a one: what they rarely answer rightly, the second society confirms.

The best society is the one with most support. An arm stops once its last `PATIENCE` societies had
less support than an earlier one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from evals.ballots import Ballot, Ballots

PATIENCE = 2
JURIES = 2
"""How many of the first societies are the jury."""


@dataclass(frozen=True, slots=True)
class Signs:
    """What is known of one society without gold, on the questions that all of them have answered.

    `support` decides. The others are shown beside it: `agreement` is the mean share of the readable
    first answers that have the plurality answer, `flipped` the share of questions with another last
    vote than in the society before (None in the first), `top_share` the part of the last votes that
    are worded as the commonest one, `unread` the share of unreadable first and last answers.
    """

    iteration: int
    support: float
    agreement: float | None
    flipped: float | None
    top_share: float
    unread: float


@dataclass(frozen=True, slots=True)
class Decision:
    """The iteration of the best society, whether the arm stops, and why."""

    chosen: int
    stops: bool
    reason: str


def read_signs(societies: Sequence[Ballots]) -> list[Signs]:
    """The signs of every society, the untuned one first."""
    juries = societies[:JURIES]
    flips = [None, *(_count_flips(before, after) for before, after in pairwise(societies))]
    return [
        Signs(
            each.iteration,
            fmean(_compute_support(jury, each) for jury in juries),
            _compute_agreement(each),
            flipped,
            _compute_top_share(each),
            _compute_unread(each),
        )
        for each, flipped in zip(societies, flips, strict=True)
    ]


def decide(signs: Sequence[Signs]) -> Decision:
    """Choose among the societies up to the newest one; at equal support the earlier is chosen."""
    best = max(signs, key=lambda each: (each.support, -each.iteration))
    newest = signs[-1]
    reason = f"{100 * best.support:.1f} % of the first answers of the jury support its votes"
    if newest is not best:
        reason += f", and {100 * newest.support:.1f} % those of iteration {newest.iteration}"
    return Decision(best.iteration, newest.iteration - best.iteration >= PATIENCE, reason)


def _compute_support(jury: Ballots, society: Ballots) -> float:
    return fmean(
        _predict(society.by_question[question], agent, answer)
        for question, ballot in jury.by_question.items()
        for agent, answer in ballot.first.items()
    )


def _predict(ballot: Ballot, agent: int, answer: int | None) -> float:
    """Whether the vote of the others is `answer`; one of several tied answers counts in part."""
    counts = ballot.count_last(without=agent)
    if answer is None or not counts:
        return 0.0
    leading = [each for each, votes in counts.items() if votes == max(counts.values())]
    return (answer in leading) / len(leading)


def _vote(ballot: Ballot) -> int | None:
    # Classes are numbered as they came up, so that a tie goes to what an earlier society has said.
    counts = ballot.count_last()
    return min(counts, key=lambda answer: (-counts[answer], answer), default=None)


def _count_flips(before: Ballots, after: Ballots) -> float:
    votes = after.by_question
    return fmean(_vote(before.by_question[q]) != _vote(ballot) for q, ballot in votes.items())


def _compute_agreement(society: Ballots) -> float | None:
    shares = []
    for ballot in society.by_question.values():
        counts = Counter(answer for answer in ballot.first.values() if answer is not None)
        if counts:
            shares.append(max(counts.values()) / counts.total())
    return fmean(shares) if shares else None


def _compute_top_share(society: Ballots) -> float:
    voted = ((q, _vote(ballot)) for q, ballot in society.by_question.items())
    counts = Counter(society.wordings[q][vote] for q, vote in voted if vote is not None)
    return max(counts.values(), default=0) / max(1, counts.total())


def _compute_unread(society: Ballots) -> float:
    return fmean(
        given[place] is None
        for ballot in society.by_question.values()
        for given in ballot.answers.values()
        for place in (0, -1)
    )
