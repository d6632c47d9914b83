import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals import metrics, styles
from evals.styles import OTHER, StyleUse
from evals.tasks.arithmetic import STYLES, Arithmetic

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
    change = styles.change(uses(before), uses(after))
    assert change is not None
    assert change.difference == pytest.approx(accuracy(after) - accuracy(before), abs=1e-9)


def test_the_same_styles_with_more_right_is_skill() -> None:
    change = styles.change(uses({"signs": (10, 5)}), uses({"signs": (20, 15)}))
    assert change is not None
    assert (change.choice, change.skill) == pytest.approx((0, 0.25))


def test_a_better_style_used_more_often_is_choice() -> None:
    before, after = {"signs": (10, 8), "terse": (30, 6)}, {"signs": (30, 24), "terse": (10, 2)}
    change = styles.change(uses(before), uses(after))
    assert change is not None
    assert (change.choice, change.skill) == pytest.approx((0.3, 0))


def test_styles_of_a_run_cover_every_first_answer(store_of) -> None:
    store = store_of(iterations=1, questions=20)
    found = styles.use(store, Arithmetic(), "greedy", 0)
    assert set(found) <= {*STYLES, OTHER}
    assert sum(use.answers for use in found.values()) == 3 * 20
    assert sum(use.share for use in found.values()) == pytest.approx(1)
    [row] = [r for r in metrics.table(store) if (r.iteration, r.decoding) == (0, "greedy")]
    assert sum(use.right for use in found.values()) / 60 == pytest.approx(row.single.value)


def test_a_run_without_known_styles_has_none(store_of) -> None:
    class Plain(Arithmetic):
        def style(self, response: str) -> str | None:
            return None

    store = store_of(iterations=0, questions=5)
    assert styles.use(store, Plain(), "greedy", 0) == {}
    assert styles.change({}, {}) is None
