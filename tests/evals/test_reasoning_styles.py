from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals import metrics, reasoning_styles
from evals.reasoning_styles import OTHER, StyleUse
from evals.tasks.arithmetic import STYLES, Arithmetic
from store.records import Turn, Verdict

counts = st.dictionaries(
    st.sampled_from(["pairs", "signs", "terse", OTHER]),
    st.integers(1, 50).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))),
    min_size=1,
)


def uses(found: dict[str, tuple[int, int]]) -> dict[str, StyleUse]:
    total = sum(answers for answers, _ in found.values())
    return {name: StyleUse(name, n, right, n / total) for name, (n, right) in found.items()}


def accuracy(found: dict[str, tuple[int, int]]) -> float:
    return sum(right for _, right in found.values()) / sum(n for n, _ in found.values())


@given(counts, counts)
def test_choice_and_skill_add_up_to_the_whole_change(before, after) -> None:
    change = reasoning_styles.compare_styles(uses(before), uses(after))
    assert change is not None
    assert change.difference == pytest.approx(accuracy(after) - accuracy(before), abs=1e-9)


def test_the_same_styles_with_more_right_is_skill() -> None:
    change = reasoning_styles.compare_styles(uses({"signs": (10, 5)}), uses({"signs": (20, 15)}))
    assert change is not None
    assert (change.choice, change.skill) == pytest.approx((0, 0.25))


def test_a_better_style_used_more_often_is_choice() -> None:
    before, after = {"signs": (10, 8), "terse": (30, 6)}, {"signs": (30, 24), "terse": (10, 2)}
    change = reasoning_styles.compare_styles(uses(before), uses(after))
    assert change is not None
    assert (change.choice, change.skill) == pytest.approx((0.3, 0))


def test_styles_of_a_run_cover_every_first_answer(store_of) -> None:
    store = store_of(iterations=1, questions=20)
    found = reasoning_styles.measure_styles(store, Arithmetic(), "greedy", 0)
    assert set(found) <= {*STYLES, OTHER}
    assert sum(use.answers for use in found.values()) == 3 * 20
    assert sum(use.share for use in found.values()) == pytest.approx(1)
    [row] = [
        r
        for r in metrics.read_society_accuracies(store)
        if (r.iteration, r.decoding) == (0, "greedy")
    ]
    assert sum(use.right for use in found.values()) / 60 == pytest.approx(row.single.value)


def test_a_run_without_known_styles_has_none(store_of) -> None:
    class Plain(Arithmetic):
        def style(self, response: str) -> str | None:
            return None

    store = store_of(iterations=0, questions=5)
    assert reasoning_styles.measure_styles(store, Plain(), "greedy", 0) == {}
    assert reasoning_styles.compare_styles({}, {}) is None


def test_styles_are_those_of_the_iteration_and_the_round_that_is_asked_for(store_of) -> None:
    store = store_of(iterations=2, questions=20)
    measured = [
        reasoning_styles.measure_styles(store, Arithmetic(), "sampled", iteration, answers=answers)
        for iteration in (0, 1, 2)
        for answers in ("first", "last")
    ]
    for number, found in enumerate(measured):
        assert sum(use.answers for use in found.values()) == 3 * 20
        assert found not in measured[:number]
    assert reasoning_styles.measure_styles(store, Arithmetic(), "sampled", 3) == {}
    assert reasoning_styles.measure_styles(store, Arithmetic(), "sampled", 1, "star") == {}


def test_styles_of_another_arm_are_its_own(store_of, made_up_rows) -> None:
    rows = list(made_up_rows(iterations=0, questions=10))
    turns = [row for row in rows if isinstance(row, Turn) and row.kind == "answer"]
    other = [replace(turn, arm="star", response="Quick total: 3, add 4") for turn in turns]
    store = store_of([*rows, *other, *(Verdict(turn.turn_id, True, True) for turn in other)])
    [(style, use)] = reasoning_styles.measure_styles(
        store, Arithmetic(), "greedy", 0, "star"
    ).items()
    assert (style, use.answers, use.accuracy) == (Arithmetic().style(other[0].response), 30, 1.0)
    assert len(reasoning_styles.measure_styles(store, Arithmetic(), "greedy", 0)) > 1
