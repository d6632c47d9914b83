import random

import pytest

from evals.degradation import (
    LEVEL,
    Concern,
    find_concerns,
    find_held_out_concerns,
    find_label_concerns,
)
from store.records import Question, Run, StoredArm, Turn, Vote

AGENTS = 3


def trained(
    iteration,
    count,
    rng,
    *,
    right=0.8,
    answer=lambda number: str(number),
    none=0.0,
    agreement=0.7,
    unread=0.0,
    cut=0.0,
    gold=True,
    rounds=1,
    prefix="",
):
    """The sampled training debates of one iteration, as its shares say."""
    for number in range(count):
        question = f"{prefix}q{number}"
        label = None if rng.random() < none else answer(number)
        votes = AGENTS if rng.random() < agreement else 2
        correct = (rng.random() < right and label is not None) if gold else None
        for number_ in range(1, rounds + 1):
            yield Vote(
                iteration, "train", "multiagent", "sampled", question, number_, label, votes,
                AGENTS, label is None, correct,
            )  # fmt: skip
            for agent in range(1, AGENTS + 1):
                read = None if rng.random() < unread else "1"
                finish = "length" if rng.random() < cut else "stop"
                yield Turn(
                    iteration, "train", "multiagent", "sampled", question, agent, number_,
                    "answer", "base", "[]", "text", read, finish, 1, 1, 1.0,
                )  # fmt: skip


def run(store_of, *passes, rows=(), count=200, fresh=True, **common):
    rng = random.Random(1)
    debates = [
        row
        for iteration, facts in enumerate(passes, start=1)
        for row in trained(
            iteration, count, rng, prefix=f"{iteration}" if fresh else "", **{**common, **facts}
        )
    ]
    return store_of([Run("r", "{}", "0" * 64, 0, "{}"), *rows, *debates])


def kinds(found: list[Concern]) -> list[tuple[int, str]]:
    return [(concern.iteration, concern.kind) for concern in found]


def test_labels_that_fall_as_an_overlearnt_habit_makes_them_are_told_early(store_of):
    """From 0.77 to 0.55 in five iterations, as 300 questions an iteration show it."""
    falling = [0.77, 0.74, 0.69, 0.64, 0.60, 0.55]
    store = run(store_of, *({"right": share} for share in falling), count=300)
    found = find_concerns(store)
    assert {concern.kind for concern in found} == {"label_accuracy"}
    assert min(concern.iteration for concern in found) <= 4
    last = found[-1]
    assert (last.iteration, last.arm) == (6, "multiagent")
    assert last.value < 0.62 < 0.7 < last.value_before
    assert last.p_value < LEVEL
    assert f"{100 * last.value:.1f} % of the 300 labels of iteration 6 are right" in last.text
    assert find_label_concerns(store, iteration=6) == [last]
    assert find_held_out_concerns(store, iteration=6) == []


def test_a_society_that_gets_better_raises_no_concern(store_of):
    growing = [{"right": 0.7, "agreement": 0.5}, {"right": 0.8, "agreement": 0.7}]
    assert find_concerns(run(store_of, *growing, {"right": 0.83, "agreement": 0.8})) == []


def test_small_changes_and_small_samples_raise_no_concern(store_of):
    assert find_concerns(run(store_of, {"right": 0.80}, {"right": 0.77}, count=2000)) == []
    assert find_concerns(run(store_of, {"right": 0.8}, {"right": 0.6}, count=10)) == []


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("coverage", {"none": 0.02}, {"none": 0.2}),
        ("agreement", {"agreement": 0.9}, {"agreement": 0.3}),
        ("unparsed", {"unread": 0.01}, {"unread": 0.2}),
        ("truncated", {"cut": 0.01}, {"cut": 0.2}),
        ("unanimous", {"agreement": 0.6}, {"agreement": 0.99}),
        ("one_answer", {}, {"answer": lambda n: "7" if n % 2 else str(n)}),
    ],
)
def test_what_shows_without_gold(store_of, kind, before, after):
    store = run(store_of, before, after, gold=False)
    [found] = find_concerns(store)
    assert (found.kind, found.iteration, found.before) == (kind, 2, 1)
    assert f"{100 * found.value:.1f} %" in found.text
    assert f"{100 * found.value_before:.1f} %" in found.text
    assert "iteration 1" in found.text


def test_the_commonest_label_and_the_entropy_are_named(store_of):
    store = run(store_of, {}, {"answer": lambda n: "7" if n % 2 else str(n)}, gold=False, count=64)
    [found] = find_concerns(store)
    assert "'7' is the label of 50.0 %" in found.text
    assert "entropy 6.00 → 3.50 bits" in found.text


def test_the_reference_is_the_best_earlier_iteration(store_of):
    store = run(store_of, {"right": 0.6}, {"right": 0.9}, {"right": 0.62}, count=300)
    assert [(c.iteration, c.before) for c in find_concerns(store)] == [(3, 2)]


def test_the_same_questions_are_paired(store_of):
    """A tenth of the questions lose their labels: told from chance only where they are the same."""
    facts = [{"answer": lambda n: "1" if n % 2 else None} for _ in range(2)]
    facts[1] = {"answer": lambda n: "1" if n % 2 and n % 5 else None}
    for fresh, expected in ((False, [(2, "coverage")]), (True, [])):
        store = run(store_of, *facts, gold=False, count=120, fresh=fresh)
        assert kinds(find_concerns(store)) == expected


def test_an_arm_is_judged_by_the_round_it_learns_from(store_of):
    rng = random.Random(2)
    rows = [Run("r", "{}", "0" * 64, 0, "{}"), StoredArm("multiagent", 0, "r", "round1", "{}")]
    for iteration in (1, 2):
        for number in range(200):
            stage = (iteration, "train", "multiagent", "sampled", f"q{number}")
            falls = iteration == 1 or rng.random() < 0.5
            rows.append(Vote(*stage, 1, "4", 3, 3, False, True))
            rows.append(Vote(*stage, 2, "4", 3, 3, False, falls))
    assert find_concerns(store_of(rows)) == []
    rows[1] = StoredArm("multiagent", 0, "r", "final", "{}")
    assert kinds(find_concerns(store_of(rows))) == [(2, "label_accuracy")]


def test_labels_from_gold_are_not_judged(store_of):
    star = StoredArm("multiagent", 0, "star", "gold", "{}")
    falling = ({"right": 0.9, "none": 0.0}, {"right": 0.3, "none": 0.5})
    assert find_concerns(run(store_of, *falling, rows=[star])) == []
    rambling = ({"cut": 0.0}, {"cut": 0.3})
    assert kinds(find_concerns(run(store_of, *rambling, rows=[star]))) == [(2, "truncated")]


def test_held_out_accuracy_that_falls_is_told(store_of):
    def evaluated():
        yield Run("r", "{}", "0" * 64, 0, "{}")
        for number in range(200):
            yield Question(f"e{number}", "t", "eval", "?", "4")
            for iteration in (0, 1, 2):
                right = number % 10 != 0 if iteration < 2 else number % 10 > 3
                vote = Vote(
                    iteration, "eval", "multiagent", "greedy", f"e{number}", 1,
                    "4" if right else "5", 3, 3, False, right,
                )  # fmt: skip
                yield vote

    [found] = find_concerns(store_of(evaluated()))
    assert (found.kind, found.iteration, found.before) == ("held_out", 2, 0)
    assert "right on 60.0 % of 200 held-out questions (greedy, consensus)" in found.text


def test_a_run_that_has_only_begun_has_no_concerns(store_of):
    assert find_concerns(store_of([Run("r", "{}", "0" * 64, 0, "{}")])) == []
    assert find_concerns(run(store_of, {})) == []
    assert find_concerns(run(store_of, {"answer": lambda n: None, "gold": False})) == []
