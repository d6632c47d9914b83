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

from evals.tasks.base import Task, TaskQuestion
from store.records import Labels, Row, StageKey, Turn, Verdict, Vote

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


def build_tie_key(seed: int, question_id: str) -> str:
    """What decides the ties of a question in a run of this seed, see `vote`."""
    return json.dumps([seed, question_id])


def count_votes(
    answers: Sequence[str | None], equivalent: Equivalent, lot: str | None = None
) -> Tally:
    """Count the agents' answers, given in the order of the agents.

    Of tied classes that one wins whose answer, hashed together with `lot`, comes first; without a
    lot that of the lowest agent number.
    """
    cast = [answer for answer in answers if answer is not None]
    if not cast:
        return Tally(None, frozenset(), 0, 0, False)
    counts = Counter(cast)
    classes = _group_equivalent(list(counts), equivalent)
    sizes = [sum(counts[answer] for answer in members) for members in classes]
    most = max(sizes)
    leading = [members for members, size in zip(classes, sizes, strict=True) if size == most]

    def spelling(members: Sequence[str]) -> str:
        return min(members, key=lambda text: (-counts[text], len(text), text))

    if lot is None:
        winner = min(leading, key=lambda members: min(cast.index(answer) for answer in members))
    else:
        winner = min(leading, key=lambda members: _hash_tie(lot, spelling(members)))
    return Tally(spelling(winner), frozenset(winner), most, len(cast), len(leading) > 1)


def agrees(answer: str | None, tally: Tally, equivalent: Equivalent) -> bool:
    """Whether an answer belongs to the winning class, also one from an earlier round."""
    if answer is None:
        return False
    return answer in tally.members or any(equivalent(answer, m) for m in tally.members)


def _hash_tie(lot: str, answer: str) -> bytes:
    return hashlib.blake2b(f"{lot}\n{answer}".encode(), digest_size=16).digest()


def _group_equivalent(distinct: list[str], equivalent: Equivalent) -> list[list[str]]:
    # Connected components over all pairs: a judge that is not transitive still gives
    # classes that do not depend on the order of the agents.
    classes: list[list[str]] = []
    for answer in distinct:
        joined = [c for c in classes if any(equivalent(answer, other) for other in c)]
        merged = [answer, *(other for c in joined for other in c)]
        classes = [c for c in classes if c not in joined] + [merged]
    return classes


# MERGED DOCSTRING of society.method.voting:
# """What a finished debate comes to: the votes of its rounds and a verdict on every answer.
#
# The same rules for debates that are held here and for those that were brought from elsewhere.
# """


NO_RESPONSE = "(no response)"
"""What stands in a conversation for an answer without a text, which several servers refuse."""


def extract_answer(task: Task, text: str, finish_reason: str) -> str | None:
    """The final answer of a response; a truncated one has not stated its final answer."""
    return task.extract(text) if finish_reason == "stop" and text.strip() else None


def fill_empty(response: str) -> str:
    """A response as it stands in later prompts, those of the others and of the agent itself."""
    return response if response.strip() else NO_RESPONSE


def explain_empty(response: str, finish_reason: str) -> str | None:
    """Why a response has no text, as far as its end tells; None where it has one."""
    if response.strip():
        return None
    return _WHY_EMPTY.get(finish_reason, f"no text came back (finish_reason {finish_reason!r})")


_WHY_EMPTY = {
    "stop": "the model ended its answer without a text",
    "length": "all tokens are used up without a text; raise sampling.max_tokens",
    "filtered": "the answer was withheld by a content filter",
    "refused": "the model refused to answer, without a text",
}


def default_quorum(agents: int) -> int:
    """More than half of the agents: how many must answer for a label, unless the user says."""
    return agents // 2 + 1


def tally(task: Task, stage: StageKey, turns: Sequence[Turn], number: int, lot: str) -> Tally:
    """The vote of round `number` over a debate's answers, given in the order of the agents.

    `lot` decides ties in evaluation; in training, where a tie counts at all, the first one wins.
    """
    answers = [t.answer for t in turns if t.round == number and t.kind == "answer"]
    return vote(answers, task.equivalent, lot if stage.split == "eval" else None)


def judge_debate(
    task: Task,
    stage: StageKey,
    question: TaskQuestion,
    turns: Sequence[Turn],
    tallies: Sequence[Tally],
    *,
    drop_ties: bool,
    quorum: int = 1,
    label: Labels = "final",
) -> list[Row]:
    """A verdict per answer turn, then a vote per round; `tallies` are those of rounds 1, 2, ….

    `drop_ties` leaves a tied vote of a training debate without a label, `quorum` one in which
    fewer agents have a readable answer. `label` says what the
    answers of a training debate are held against: the vote of the last round or of the first, or
    the gold answer (STaR, the only arm that may learn from it).
    """
    if stage.split == "eval":
        label = "final"
    training = stage.split == "train"
    labels = [
        None if training and ((drop_ties and each.tie) or each.voters < quorum) else each.answer
        for each in tallies
    ]
    votes: list[Row] = [
        Vote(
            iteration=stage.iteration,
            arm=stage.arm,
            split=stage.split,
            decoding=stage.decoding,
            question_id=question.question_id,
            round=number,
            answer=label,
            votes=each.votes,
            voters=each.voters,
            tie=each.tie,
            correct=_is_correct(task, label, question.gold),
            quorum=quorum if training else None,
        )
        for number, (each, label) in enumerate(zip(tallies, labels, strict=True), start=1)
    ]
    place = 0 if label == "round1" else -1
    verdicts: list[Row] = []
    for turn in turns:
        if turn.kind != "answer":
            continue
        correct = _is_correct(task, turn.answer, question.gold)
        if label == "gold":
            agreeing = correct
        elif labels[place] is None:
            agreeing = None
        else:
            agreeing = agrees(turn.answer, tallies[place], task.equivalent)
        verdicts.append(Verdict(turn_id=turn.turn_id, agrees=agreeing, correct=correct))
    return [*verdicts, *votes]


def _is_correct(task: Task, answer: str | None, gold: str | None) -> bool | None:
    if gold is None:
        return None
    return answer is not None and task.equivalent(answer, gold)
