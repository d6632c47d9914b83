"""The choice among societies: support by the first two of them, without gold."""

from __future__ import annotations

import pytest

from evals.ballots import read_ballots
from evals.stopping import Signs, decide, read_signs
from store.records import Question, Run, Turn, Vote

JURY = [("7", "7", "5"), ("8", "8", "8"), ("1", "2", "3"), ("4", None, "4")]
"""What three untuned agents answer to four questions."""


def society(iteration, answers):
    """The evaluation debates of one society: the agents say the same in both rounds."""
    for number, given in enumerate(answers):
        question = f"q{number}"
        for round_number in (1, 2):
            yield Vote(
                iteration, "eval", "a", "sampled", question, round_number, given[0], 2, 3, False,
                correct=True,
            )  # fmt: skip
            for agent, answer in enumerate(given, start=1):
                yield Turn(
                    iteration, "eval", "a", "sampled", question, agent, round_number, "answer",
                    "m", "[]", "text", answer, "stop", 1, 1, 1.0,
                )  # fmt: skip


@pytest.fixture
def signs_of(store_of):
    def read(*societies):
        rows = [Run("r", "{}", "0" * 64, 0, "{}")]
        rows += [Question(f"q{n}", "t", "eval", "?", gold="7") for n in range(4)]
        for iteration, answers in enumerate(societies):
            rows += society(iteration, answers)
        store = store_of(rows)
        return store, read_signs(read_ballots(store, "a", 9, lambda a, b: float(a) == float(b)))

    return read


def test_support_is_the_jurys_word_on_the_vote_of_the_others(signs_of):
    learnt = [("7", "7", "7"), ("8", "8", "8"), ("2", "2", "2"), ("4", "4.0", "4")]
    collapsed = [("9", "9", "9")] * 4
    _, signs = signs_of(JURY, learnt, collapsed)
    # The jury are the first two societies. Society 0 by its own agents: q0 tie, tie, no; q1 three
    # times; q2 none; q3 twice, as who is unread says nothing. Then by those of society 1.
    assert signs[0].support == pytest.approx(((1 + 3 + 0 + 2) / 12 + (2 + 3 + 1 + 3) / 12) / 2)
    assert signs[1].support == pytest.approx(((2 + 3 + 1 + 2) / 12 + 1) / 2)
    assert signs[2].support == 0
    assert [each.flipped for each in signs] == [None, 0.25, 1.0]
    assert [each.top_share for each in signs] == [0.25, 0.25, 1.0]
    assert [each.unread for each in signs] == pytest.approx([1 / 12, 0, 0])
    # A society that agrees on one wrong answer agrees perfectly, and is not chosen for that.
    assert signs[2].agreement == 1 > signs[0].agreement
    assert decide(signs).chosen == 1


def test_gold_answers_do_not_change_the_choice(signs_of):
    store, signs = signs_of(JURY, [("7", "7", "7")] * 4)
    for poison in (
        "UPDATE questions SET gold = '-1'",
        "UPDATE votes SET correct = NOT correct",
        "UPDATE verdicts SET correct = NOT correct",
    ):
        store.transact(lambda connection, sql=poison: connection.execute(sql))
    assert read_signs(read_ballots(store, "a", 9, lambda a, b: float(a) == float(b))) == signs


def make_signs(*supports):
    return [Signs(k, support, 0.9, 0.1, 0.1, 0.0) for k, support in enumerate(supports)]


@pytest.mark.parametrize(
    ("supports", "chosen", "stops"),
    [
        ((0.5, 0.6), 1, False),
        ((0.5, 0.6, 0.55), 1, False),
        ((0.5, 0.6, 0.55, 0.59), 1, True),
        ((0.5, 0.6, 0.55, 0.61), 3, False),
        ((0.5, 0.4, 0.3), 0, True),
        # At equal support the earlier society, which has cost less.
        ((0.5, 0.6, 0.6, 0.6), 1, True),
    ],
)
def test_an_arm_stops_once_two_societies_had_less_support_than_an_earlier_one(
    supports, chosen, stops
):
    decision = decide(make_signs(*supports))
    assert (decision.chosen, decision.stops) == (chosen, stops)


def test_the_reason_has_the_figures():
    assert decide(make_signs(0.5, 0.6, 0.55, 0.59)).reason == (
        "60.0 % of the first answers of the jury support its votes, and 59.0 % those of iteration 3"
    )
