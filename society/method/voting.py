"""The majority vote that stands in for the missing label (arXiv 2501.05707, section 3.2).

Answers fall into classes by mathematical equivalence, and the class with most votes wins. A
response without a readable answer casts no vote. A tie is recorded as a tie. Where one of the tied
classes has to win, a hash decides that does not depend on the agents: if the lowest agent number
won, that agent would dissent least.

The same rules hold for the debates of a run and for imported ones.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from evals.tasks.base import Task, TaskQuestion
from store.records import Labels, StageKey, Turn, Verdict, Vote
from store.tables import Record

Equivalent = Callable[[str, str], bool]


@dataclass(frozen=True, slots=True)
class Tally:
    """The outcome of one vote. `members` are the distinct answers of the winning class.

    `answer` represents the class: its most frequent wording, then the shortest, then the first in
    alphabetical order, so it does not depend on who said it. It is None if no agent answered.
    """

    answer: str | None
    members: frozenset[str]
    votes: int
    voters: int
    tie: bool


@dataclass(frozen=True, slots=True)
class LabelVote:
    """A vote of its own that labels a training debate, and how many voters its label needs."""

    tally: Tally
    quorum: int


def count_votes(
    answers: Sequence[str | None], equivalent: Equivalent, tie_key: str | None = None
) -> Tally:
    """Count the agents' answers, given in the order of the agents.

    Among tied classes the one wins whose answer, hashed together with `tie_key`, comes first;
    without a key it is the class of the lowest agent number.

    >>> count_votes(["7", "7.0", "8"], lambda a, b: float(a) == float(b)).votes
    2
    """
    # An unreadable response abstains. It is not counted as wrong, since that would make a vote of
    # few readable answers look unsure, and the quorum already bounds how few there may be.
    cast = [answer for answer in answers if answer is not None]
    if not cast:
        return Tally(None, frozenset(), 0, 0, False)
    counts = Counter(cast)
    classes = _group_equivalent(list(counts), equivalent)
    sizes = [sum(counts[answer] for answer in members) for members in classes]
    most = max(sizes)
    leading = [members for members, size in zip(classes, sizes, strict=True) if size == most]

    def choose_spelling(members: Sequence[str]) -> str:
        return min(members, key=lambda text: (-counts[text], len(text), text))

    if tie_key is None:
        winner = min(leading, key=lambda members: min(cast.index(answer) for answer in members))
    else:
        winner = min(leading, key=lambda members: _hash_tie(tie_key, choose_spelling(members)))
    return Tally(choose_spelling(winner), frozenset(winner), most, len(cast), len(leading) > 1)


def build_tie_key(seed: int, question_id: str) -> str:
    """What decides the ties of a question in a run of this seed, see `count_votes`."""
    return json.dumps([seed, question_id])


def agrees(answer: str | None, tally: Tally, equivalent: Equivalent) -> bool:
    """Whether an answer, of this round or an earlier one, belongs to the winning class."""
    if answer is None:
        return False
    return answer in tally.members or any(equivalent(answer, m) for m in tally.members)


def default_quorum(agents: int) -> int:
    """How many agents must answer for a label unless the user says: more than half of them."""
    return agents // 2 + 1


def count_round(
    task: Task, stage: StageKey, turns: Sequence[Turn], round_number: int, tie_key: str
) -> Tally:
    """The vote of round `round_number` over a debate's turns, given in the order of the agents.

    `tie_key` decides ties in evaluation. In training a tie is usually left out; with
    `consensus.ties = "first"` the lowest agent number wins.
    """
    answers = [t.answer for t in turns if t.round == round_number and t.kind == "answer"]
    return count_votes(answers, task.equivalent, tie_key if stage.split == "eval" else None)


def is_unanimous(tally: Tally, agents: int) -> bool:
    """Whether all of `agents` have a readable answer, and the same one."""
    return tally.votes == tally.voters == agents


def judge_debate(
    task: Task,
    stage: StageKey,
    question: TaskQuestion,
    turns: Sequence[Turn],
    tallies: Sequence[Tally],
    *,
    rounds: int,
    drop_ties: bool,
    quorum: int = 1,
    label: Labels = "final",
    label_vote: LabelVote | None = None,
) -> list[Record]:
    """A verdict per answer turn, then a vote per round; `tallies` are those of rounds 1, 2, ….

    Where fewer than `rounds` were held, the others get the last vote, marked as carried.
    `drop_ties` leaves a tied vote of a training debate without a label, `quorum` one in which
    fewer agents have a readable answer. `label` says what the answers of a training debate are
    compared with: the vote of the last round or of the first, or the gold answer (STaR, the only
    arm that may learn from it). `label_vote` labels in place of the debate's own votes.
    """
    training = stage.split == "train"
    if not training:
        label = "final"

    def build_vote(each: Tally, least: int, at: StageKey, round_number: int) -> Vote:
        dropped = training and ((drop_ties and each.tie) or each.voters < least)
        answer = None if dropped else each.answer
        return Vote(
            iteration=at.iteration,
            arm=at.arm,
            split=at.split,
            decoding=at.decoding,
            question_id=question.question_id,
            round=round_number,
            answer=answer,
            votes=each.votes,
            voters=each.voters,
            tie=each.tie,
            correct=_is_correct(task, answer, question.gold),
            quorum=least if training else None,
        )

    votes = [build_vote(each, quorum, stage, at) for at, each in enumerate(tallies, start=1)]
    held = len(votes)
    place = 0 if label == "round1" else -1
    deciding, vote = votes[place], tallies[place]
    votes += [
        replace(votes[-1], round=round_number, carried_from=held)
        for round_number in range(held + 1, rounds + 1)
    ]
    if label_vote is not None:
        vote = label_vote.tally
        deciding = build_vote(vote, label_vote.quorum, replace(stage, split="label"), 1)
        votes.append(deciding)
    counted = None if deciding.answer is None else vote
    return [*_judge_answers(task, question, turns, "gold" if label == "gold" else counted), *votes]


def _judge_answers(
    task: Task, question: TaskQuestion, turns: Sequence[Turn], label: Tally | Literal["gold"] | None
) -> list[Verdict]:
    """A verdict per answer turn; `label` is the vote that answers are compared with, or gold."""
    verdicts = []
    for turn in (t for t in turns if t.kind == "answer"):
        agreeing = correct = _is_correct(task, turn.answer, question.gold)
        if label != "gold":
            # A label that was dropped agrees with nothing and disagrees with nothing: NULL.
            agreeing = None if label is None else agrees(turn.answer, label, task.equivalent)
        verdicts.append(Verdict(turn_id=turn.turn_id, agrees=agreeing, correct=correct))
    return verdicts


def extract_answer(task: Task, text: str, finish_reason: str) -> str | None:
    """The final answer of a response; a truncated response has not stated its final answer."""
    return task.extract(text) if finish_reason == "stop" and text.strip() else None


def explain_empty(response: str, finish_reason: str, *, thought: str | None = None) -> str | None:
    """Why a response has no text, as far as its finish reason and its thought show; None if it has
    text."""
    if response.strip():
        return None
    if thought and finish_reason in _WHY_THOUGHT_ONLY:
        return _WHY_THOUGHT_ONLY[finish_reason]
    return _WHY_EMPTY.get(finish_reason, f"no text came back (finish_reason {finish_reason!r})")


_WHY_THOUGHT_ONLY = {
    "stop": "the model ended its response within its thought, without an answer",
    "length": "the model was still reasoning when all tokens were used up; raise "
    "sampling.max_tokens, or switch the model's reasoning off (provider.reasoning_effort, "
    "provider.chat_template_kwargs)",
}
_WHY_EMPTY = {
    "stop": "the model ended its answer without a text",
    "length": "all tokens are used up without a text; raise sampling.max_tokens",
    "filtered": "the answer was withheld by a content filter",
    "refused": "the model refused to answer, without a text",
}


def _hash_tie(tie_key: str, answer: str) -> bytes:
    return hashlib.blake2b(f"{tie_key}\n{answer}".encode(), digest_size=16).digest()


def _group_equivalent(distinct: list[str], equivalent: Equivalent) -> list[list[str]]:
    # Connected components over all pairs: a judge that is not transitive still gives
    # classes that do not depend on the order of the agents.
    classes: list[list[str]] = []
    for answer in distinct:
        joined = [c for c in classes if any(equivalent(answer, other) for other in c)]
        merged = [answer, *(other for c in joined for other in c)]
        classes = [c for c in classes if c not in joined] + [merged]
    return classes


def _is_correct(task: Task, answer: str | None, gold: str | None) -> bool | None:
    if gold is None:
        return None
    return answer is not None and task.equivalent(answer, gold)
