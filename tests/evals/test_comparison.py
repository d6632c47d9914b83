import random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evals.comparison import adjust_p_values, apply_holm, compare, compare_all, find_last_iteration
from evals.intervals import paired_right
from store.records import Question, Run, Turn, Verdict, Vote


def run_of(seed: int, arms: dict[str, dict[str, bool]], iteration: int = 1):
    """A run whose arms have answered, in one round, the questions right that are marked so."""
    yield Run(f"run{seed}", "{}", "0" * 64, seed, "{}")
    for question in sorted({q for marks in arms.values() for q in marks}):
        yield Question(question, "arithmetic", "eval", question, "4")
    for arm, marks in arms.items():
        for question, right in marks.items():
            answer = "4" if right else "5"
            yield Vote(iteration, "eval", arm, "greedy", question, 1, answer, 1, 1, False, right)
            turn = Turn(
                iteration, "eval", arm, "greedy", question, 1, 1, "answer", "base", "[]",
                answer, answer, "stop", 1, 1, 1.0,
            )  # fmt: skip
            yield turn
            yield Verdict(turn.turn_id, True, right)


def marks(seed: int, share: float, count: int = 40) -> dict[str, bool]:
    draw = random.Random(seed)
    return {f"q{number}": draw.random() < share for number in range(count)}


def test_a_difference_is_a_minus_b_on_the_questions_of_both(store_of) -> None:
    a, b = {"q1": True, "q2": True, "q3": False, "q4": True}, {"q2": False, "q3": True, "q4": False}
    store = store_of(run_of(0, {"multiagent": a, "star": b}))
    found = compare([store], "multiagent", "star", "consensus", "greedy", 1, 1)
    assert found is not None
    assert (found.pooled.total, found.pooled.gained, found.pooled.lost) == (3, 2, 1)
    assert found.pooled.difference == pytest.approx(1 / 3)
    assert (found.pooled.after, found.pooled.before) == pytest.approx((2 / 3, 1 / 3))
    turned = compare([store], "star", "multiagent", "consensus", "greedy", 1, 1)
    assert turned is not None
    assert turned.pooled.difference == pytest.approx(-1 / 3)


def test_several_runs_are_pooled_and_told_apart(store_of) -> None:
    tables = [(marks(seed, 0.8), marks(seed + 50, 0.6)) for seed in range(3)]
    stores = [store_of(run_of(s, {"a": a, "b": b})) for s, (a, b) in enumerate(tables)]
    found = compare(stores, "a", "b", "consensus", "greedy", 1, 1)
    assert found is not None
    before = [b[q] for a, b in tables for q in a]
    after = [a[q] for a, b in tables for q in a]
    assert found.pooled == paired_right(before, after)
    assert [(run.run, run.seed) for run in found.runs] == [("run0", 0), ("run1", 1), ("run2", 2)]
    own = [fmean(a.values()) - fmean(b.values()) for a, b in tables]
    assert [run.change.difference for run in found.runs] == pytest.approx(own)
    seeds = found.seeds
    assert (seeds.mean, seeds.smallest, seeds.largest) == pytest.approx(
        (fmean(own), min(own), max(own))
    )
    expected = stats.t.interval(0.95, 2, loc=fmean(own), scale=stats.sem(own))
    assert (seeds.low, seeds.high) == pytest.approx(expected, abs=1e-6)


def test_one_question_in_several_runs_counts_once_by_question(store_of) -> None:
    a, b = marks(1, 0.8), marks(2, 0.6)
    stores = [store_of(run_of(seed, {"a": a, "b": b})) for seed in range(3)]
    found = compare(stores, "a", "b", "consensus", "greedy", 1, 1)
    assert found is not None
    assert (found.pooled.total, found.by_question.total) == (120, 40)
    assert found.by_question.difference == pytest.approx(found.pooled.difference)
    assert found.pooled.p_value is not None
    assert found.p_value > found.pooled.p_value
    assert found.by_question.low < found.pooled.low
    assert found.by_question.high > found.pooled.high


def test_runs_without_an_arm_are_left_out(store_of) -> None:
    both = store_of(run_of(0, {"a": marks(1, 0.8), "b": marks(2, 0.6)}))
    one = store_of(run_of(1, {"a": marks(3, 0.8)}))
    found = compare([both, one], "a", "b", "consensus", "greedy", 1, 1)
    assert found is not None
    assert [run.run for run in found.runs] == ["run0"]
    assert found.seeds.low is None
    assert compare([one], "a", "b", "consensus", "greedy", 1, 1) is None
    assert compare([both], "a", "b", "consensus", "sampled", 1, 1) is None


def test_a_share_of_agents_has_no_mcnemar(store_of) -> None:
    store = store_of(run_of(0, {"a": marks(1, 0.9), "b": marks(2, 0.3)}))
    found = compare([store], "a", "b", "single", "greedy", 1, 1)
    assert found is not None
    assert found.pooled.p_value is None
    assert found.p_value < 1e-4
    assert found.significant
    [alone] = apply_holm([found])
    assert alone.p_holm == found.p_value


def test_measures_and_decodings_may_differ(store_of) -> None:
    store = store_of(run_of(0, {"a": marks(1, 0.9)}))
    same = compare([store], "a", "a", "consensus", "greedy", 1, 1, measure_b="majority")
    assert same is not None
    assert same.pooled.difference == 0
    assert (same.a.measure, same.b.measure) == ("consensus", "majority")


def test_many_arms_are_corrected_together(store_of) -> None:
    arms = {f"arm{number}": marks(number, 0.3 + number / 10, 60) for number in range(5)}
    store = store_of(run_of(0, {"ours": marks(99, 0.9, 60), **arms}))
    found = compare_all(
        [store], "ours", {**dict.fromkeys(arms, 1), "gone": 1}, "consensus", "greedy", 1
    )
    assert [each.b.stage.arm for each in found] == list(arms)
    assert [each.p_holm for each in found] == adjust_p_values([each.p_value for each in found])
    assert [each.p_value for each in found] == [each.pooled.p_value for each in found]
    assert all(each.p_holm >= each.p_value for each in found if each.p_holm is not None)


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values: list[float]) -> None:
    adjusted = adjust_p_values(p_values)
    for level in (0.01, 0.05, 0.3):
        rejected = set()
        for step, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
            if p_values[index] * (len(p_values) - step) > level:
                break
            rejected.add(index)
        assert {i for i, p in enumerate(adjusted) if p <= level} == rejected


def test_holms_correction_of_known_values() -> None:
    assert adjust_p_values([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_the_last_iteration_that_all_runs_have(store_of) -> None:
    long = store_of([*run_of(0, {"a": marks(1, 0.5)}, 1), *list(run_of(0, {"a": marks(1, 1)}, 2))])
    short = store_of(run_of(1, {"a": marks(1, 0.5)}, 1))
    other = store_of(run_of(2, {"b": marks(1, 0.5)}, 0))
    assert find_last_iteration([long], "a", "greedy") == 2
    assert find_last_iteration([long, short, other], "a", "greedy") == 1
    assert find_last_iteration([other], "a", "greedy") is None
