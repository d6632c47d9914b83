"""How the questions of a file came out: agreed, tied or unreadable, how accurate, at what cost."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from evals.intervals import Rate
from evals.metrics import read_society_accuracies
from society.costs.budget import Spending, read_spending, round_usd
from society.runs.ask_file import FilePlan
from store.ledger import Store
from store.records import Vote

Outcome = Literal["unanimous", "majority", "tied", "unreadable"]
"""All agents agree; more agree on one answer than on any other; a hash decided between answers; no
agent has stated one."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """The last votes on the questions of `plan`, in its order.

    `accuracy` is that of the votes on questions with gold, None without any; `failed` counts the
    requests that got no response.
    """

    plan: FilePlan
    votes: tuple[Vote, ...]
    accuracy: Rate | None
    failed: int
    spending: Spending

    @property
    def counts(self) -> dict[str, int]:
        """How many questions came out each way."""
        found = Counter(map(self._name_outcome, self.votes))
        return {name: found[name] for name in get_args(Outcome)}

    def _name_outcome(self, vote: Vote) -> Outcome:
        if vote.answer is None:
            return "unreadable"
        if vote.tie:
            return "tied"
        return "unanimous" if vote.votes == self.plan.agents else "majority"

    def __str__(self) -> str:
        """One sentence for people, and what they should know of it."""
        found = self.counts
        parts = [
            f"{len(self.votes)} questions: the agents agree on {found['unanimous']}",
            f"most agree on {found['majority']}",
            f"{found['tied']} tied",
            f"{found['unreadable']} unreadable",
        ]
        lines = [", ".join(parts)]
        if self.accuracy is not None:
            rate = self.accuracy
            lines[0] += (
                f"; accuracy {100 * rate.value:.1f} % ({100 * rate.low:.1f}–{100 * rate.high:.1f}) "
                f"on {rate.total} with gold"
            )
        lines[0] += f"; {_format_cost(self.spending)}"
        if self.accuracy is not None and self.plan.trained_on:
            lines.append(
                f"{self.plan.trained_on} of the questions are among those that the run has trained "
                "on: the accuracy flatters there"
            )
        if self.failed:
            lines.append(f"{self.failed} requests failed; the same command asks them again")
        return "\n".join(lines)

    def describe(self) -> dict[str, Any]:
        """The same for programs, with every answer; shares of 1."""
        return {
            "of": self.plan.source.name,
            "iteration": self.plan.iteration,
            "agents": self.plan.agents,
            "questions": len(self.votes),
            **self.counts,
            "accuracy": self.accuracy and asdict(self.accuracy),
            "gold_field": self.plan.gold_field,
            "trained_on": self.plan.trained_on,
            "failed": self.failed,
            "usd": self.spending.usd,
            "answers": [
                {
                    "question_id": question.question_id,
                    "question": question.text,
                    "answer": vote.answer,
                    "votes": vote.votes,
                    "outcome": self._name_outcome(vote),
                    "gold": question.gold,
                    "correct": vote.correct,
                }
                for question, vote in zip(self.plan.questions, self.votes, strict=True)
            ],
        }


def read_outcomes(store: Store, plan: FilePlan) -> Outcomes:
    """What `society.runs.ask_file.ask_questions` has stored."""
    stage, [arm] = plan.stage, plan.experiment.arms
    last = {vote.question_id: vote for vote in store.votes(stage) if vote.round == arm.rounds}
    rates = read_society_accuracies(store, arm.name)
    return Outcomes(
        plan,
        tuple(last[question.question_id] for question in plan.questions),
        rates[0].consensus if rates else None,
        sum(turn.failure is not None for turn in store.turns(stage)),
        read_spending(store),
    )


def _format_cost(spending: Spending) -> str:
    if not spending.usd and not spending.unknown:
        return "no cost"
    least = "at least " if spending.unknown else ""
    return f"cost {least}{round_usd(spending.usd):f} USD"
