"""Answers that only the judge can compare, as they stand in responses."""

import pytest

from evals.answers.math.kind import MathKind
from evals.judge.pool import GivenUp, Judge


@pytest.fixture
def judge(quick_judge: Judge) -> Judge:
    return quick_judge


def test_slow_and_endless_pairs_are_decided_once(judge: Judge) -> None:
    kind = MathKind(ask=judge)
    before, given_up = judge.decided, len(judge.list_given_up())
    items = [
        (r"\boxed{41+f(x)}", "f(x)+41"),
        (r"\boxed{42+f(x)}", "f(x)+41"),
        (r"\boxed{11!!!!!}", "3"),
        (r"The answer is \frac{2}{4}.", "0.5"),
        ("I do not know.", "0.5"),
    ]
    read = [(kind.read(response), gold) for response, gold in items * 3]
    correct = [answer is not None and kind.same(answer, gold) for answer, gold in read]
    assert correct == [True, False, False, True, False] * 3
    assert [answer for answer, _ in read[:5]] == [
        "41+f(x)",
        "42+f(x)",
        "11!!!!!",
        r"\frac{2}{4}",
        None,
    ]
    assert judge.decided == before + 3
    assert judge.list_given_up()[given_up:] == (GivenUp(("11!!!!!", "3"), "SIGPROF"),)


def test_pairs_within_lists_reach_the_judge(judge: Judge) -> None:
    kind = MathKind(ask=judge)
    before = judge.decided
    answer = kind.read(r"\boxed{g(1), g(x)+1}")
    assert answer == "g(1), g(x)+1"
    assert kind.same(answer, "1+g(x), g(1)")
    decided = judge.decided
    assert decided > before
    assert kind.same(answer, "1+g(x), g(1)")
    assert kind.same("1+g(x), g(1)", answer)
    assert judge.decided == decided


def test_a_pair_of_lists_that_asks_too_much_is_not_the_same(judge: Judge) -> None:
    kind = MathKind(ask=judge)
    before = judge.decided
    ones = ", ".join(f"f({n})+{n}" for n in range(9))
    others = ", ".join(f"{n}-f({n})" for n in range(9))
    assert not kind.same(ones, others)
    assert judge.decided - before <= 40
