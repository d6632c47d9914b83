from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pytest

from evals.answers.math.kind import MathKind
from evals.grading import Grade, Prepared, grade
from evals.judge.pool import Judge


@dataclass
class Plain:
    """A kind without anything to prepare, that counts what it is asked."""

    name: str = "plain"
    form: str = ""
    reads: int = 0
    comparisons: list[tuple[str, str]] = field(default_factory=list)

    def read(self, response: str) -> str | None:
        self.reads += 1
        return response.strip() or None

    def read_gold(self, text: str) -> str:
        return text

    def same(self, a: str, b: str) -> bool:
        self.comparisons.append((a, b))
        return a == b


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    judge = Judge(cpu_seconds=0.5)
    yield judge
    judge.close()


def test_grades_come_in_the_order_of_the_items() -> None:
    items = [("1", "1"), ("", "1"), ("2", "1"), ("1", "1")]
    assert grade(Plain(), iter(items)) == [
        Grade("1", True),
        Grade(None, False),
        Grade("2", False),
        Grade("1", True),
    ]
    assert grade(Plain(), []) == []


def test_equal_responses_are_read_and_equal_pairs_compared_once() -> None:
    kind = Plain()
    grade(kind, [("1", "1"), ("2", "1"), (" 1", "1")] * 100)
    assert kind.reads == 3
    assert kind.comparisons == [("1", "1"), ("2", "1")]


def test_only_kinds_with_slow_pairs_are_prepared() -> None:
    assert isinstance(MathKind(), Prepared)
    assert not isinstance(Plain(), Prepared)


def test_slow_and_endless_pairs_are_decided_beforehand(judge: Judge) -> None:
    kind = MathKind(ask=judge)
    items = [
        (r"\boxed{1+f(x)}", "f(x)+1"),
        (r"\boxed{2+f(x)}", "f(x)+1"),
        (r"\boxed{10!!!!!}", "3"),
        (r"The answer is \frac{2}{4}.", "0.5"),
        ("I do not know.", "0.5"),
    ]
    assert [g.correct for g in grade(kind, items * 3)] == [True, False, False, True, False] * 3
    assert judge.decided == 3
    assert [s.pair for s in judge.surrenders()] == [("10!!!!!", "3")]


def test_pairs_within_lists_are_prepared_as_well(judge: Judge) -> None:
    class Noting(MathKind):
        def prepare(self, pairs: Iterable[tuple[str, str]]) -> None:
            super().prepare(pairs)
            prepared.append(judge.decided)

    prepared: list[int] = []
    kind = Noting(ask=judge)
    assert grade(kind, [(r"\boxed{g(1), g(x)+1}", "1+g(x), g(1)")]) == [Grade("g(1), g(x)+1", True)]
    assert prepared == [judge.decided]
