from collections import Counter
from fractions import Fraction
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.answers import load_kind
from society.method.voting import agrees, build_tie_key, count_votes


def same_number(a: str, b: str) -> bool:
    return Fraction(a) == Fraction(b)


def test_equal_numbers_vote_together_whatever_their_spelling():
    tally = count_votes(["1/2", "0.5", "3"], same_number)
    assert (tally.votes, tally.voters, tally.tie) == (2, 3, False)
    assert tally.answer == "0.5"
    assert agrees("2/4", tally, same_number)
    assert not agrees("3", tally, same_number)


def test_the_most_frequent_spelling_represents_its_class():
    assert count_votes(["1/2", "1/2", "0.5"], same_number).answer == "1/2"


def test_unreadable_answers_cast_no_vote():
    tally = count_votes([None, "7", None], same_number)
    assert (tally.answer, tally.votes, tally.voters, tally.tie) == ("7", 1, 1, False)
    assert not agrees(None, tally, same_number)


def test_nobody_answered():
    tally = count_votes([None, None], same_number)
    assert (tally.answer, tally.votes, tally.voters, tally.tie) == (None, 0, 0, False)
    assert not agrees("7", tally, same_number)


@pytest.mark.parametrize(
    ("answers", "winner"),
    [(["2", "1"], "2"), (["3", "1", "1", "3"], "3"), ([None, "9", "4"], "9")],
)
def test_a_tie_is_said_and_goes_to_the_lowest_agent(answers, winner):
    tally = count_votes(answers, same_number)
    assert tally.tie
    assert tally.answer == winner


@given(st.permutations(["3", "1/2", "7", "0.5", "6/2", None]), st.integers(0, 9), st.text())
def test_a_tie_by_lot_does_not_depend_on_the_order_of_the_agents(order, seed, question):
    first = count_votes(
        ["1/2", "0.5", "3", "6/2", "7", None], same_number, build_tie_key(seed, question)
    )
    other = count_votes(order, same_number, build_tie_key(seed, question))
    assert first.tie
    assert first.votes == 2
    assert (first.answer, first.members) == (other.answer, other.members)


def test_a_lot_favors_no_agent_and_no_answer():
    winners = Counter(
        count_votes(["5", "80", "9"], same_number, build_tie_key(0, f"q{n}")).answer
        for n in range(600)
    )
    assert all(150 < winners[answer] < 250 for answer in ("5", "80", "9"))
    again = [
        count_votes(["5", "9"], same_number, build_tie_key(seed, "q")).answer for seed in range(40)
    ]
    assert len(set(again)) == 2


def test_a_lot_decides_nothing_but_ties():
    assert count_votes(["2", "1", "1"], same_number, build_tie_key(0, "q")).answer == "1"
    assert count_votes([None, None], same_number, build_tie_key(0, "q")).answer is None


ANSWERS = st.lists(st.sampled_from(["1", "2/2", "1.0", "2", "4/2", "3", None]), max_size=6)


@given(ANSWERS)
def test_the_order_of_agents_decides_nothing_but_ties(answers):
    tally = count_votes(answers, same_number)
    for order in list(permutations(answers))[:50]:
        other = count_votes(order, same_number)
        assert (other.votes, other.voters, other.tie) == (tally.votes, tally.voters, tally.tie)
        if not tally.tie:
            assert (other.answer, other.members) == (tally.answer, tally.members)


def test_a_judge_that_is_not_transitive_gives_the_same_classes_in_any_order():
    def near(a: str, b: str) -> bool:
        return abs(int(a) - int(b)) <= 1

    outcomes = {count_votes(order, near).members for order in permutations(["1", "2", "3", "9"])}
    assert outcomes == {frozenset({"1", "2", "3"})}


SPELLINGS = {
    "number": ["18", "18.0", "36/2", "1,800 %", "7", "-7", None],
    "math": ["\\frac{1}{2}", "0.5", "\\dfrac12", "(1, 2)", "(1,2)", "2x+2", "2(x+1)", "x", None],
    "choice": ["A", "B", "C", None],
    "text": ["Paris", "paris", " Paris.", "Rome", None],
}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_real_answers_vote_the_same_in_any_order_of_agents(data):
    name = data.draw(st.sampled_from(sorted(SPELLINGS)))
    same = load_kind(name, {}).same
    answers = data.draw(st.lists(st.sampled_from(SPELLINGS[name]), min_size=1, max_size=6))
    order = data.draw(st.permutations(answers))
    first, other = count_votes(answers, same), count_votes(order, same)
    assert (other.votes, other.voters, other.tie) == (first.votes, first.voters, first.tie)
    if not first.tie:
        assert (other.answer, other.members) == (first.answer, first.members)


@given(st.data())
def test_any_symmetric_judge_gives_classes_that_do_not_depend_on_the_order(data):
    answers = list("abcde")
    pairs = [(a, b) for a in answers for b in answers if a < b]
    alike = {pair for pair in pairs if data.draw(st.booleans())}

    def same(a: str, b: str) -> bool:
        return a == b or (min(a, b), max(a, b)) in alike

    order = data.draw(st.permutations(answers))
    first, other = count_votes(answers, same), count_votes(order, same)
    assert (other.votes, other.tie) == (first.votes, first.tie)
    if not first.tie:
        assert (other.answer, other.members) == (first.answer, first.members)
