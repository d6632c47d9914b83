"""Which questions count as the same, and which do not."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.overlap import find_overlaps, normalize_question
from evals.tasks.arithmetic import Arithmetic
from evals.tasks.base import TaskQuestion


def asked(*texts, prefix="q"):
    return [TaskQuestion(f"{prefix}{n}", text, None) for n, text in enumerate(texts)]


def pair(one, other, **options):
    return find_overlaps(asked(one, prefix="t"), asked(other, prefix="e"), **options)


@pytest.mark.parametrize(
    "other",
    [
        "what is the value of  3+4/5, in cm ?",
        "What is the value of $3 + 4/5$ in cm?",
        "What is the value of $3\\,+\\,4/5$, in cm?",
        "What is the value of \\(3 + 4/5\\) in ｃｍ?\n",
        "What is the value of 3 + 4 ÷ 5, in cm?",
    ],
)
def test_spacing_case_and_punctuation_make_no_difference(other):
    [found] = pair("What is the value of 3 + 4/5, in cm?", other)
    assert found.exact
    assert found.similarity == 1.0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 3-4?", "What is 3+4?"),
        ("What is 3.5 times 2?", "What is 35 times 2?"),
        ("Add 1 2 and 3.", "Add 12 and 3."),
        ("What is 5!?", "What is 5?"),
        ("What is f'(2)?", "What is f(2)?"),
        ("What is 1/2 of 6?", "What is 12 of 6?"),
        ("The ratio is 3:4, so what?", "The ratio is 34, so what?"),
    ],
)
def test_signs_that_matter_in_mathematics_are_kept(one, other):
    assert not any(found.exact for found in pair(one, other))


def test_numbers_written_with_separators_are_the_same():
    assert pair("Ann has 1,250 coins.", "Ann has 1250 coins.")[0].exact


def test_shuffled_choices_are_found():
    question = "Which gas do green plants take in during the day?\n\n"
    [found] = pair(
        question + "(A) oxygen\n(B) carbon dioxide\n(C) helium\n(D) pure nitrogen",
        question + "(A) helium\n(B) pure nitrogen\n(C) oxygen\n(D) carbon dioxide",
    )
    assert not found.exact
    assert found.similarity > 0.99


def test_a_changed_name_is_found_and_changed_numbers_are_another_question():
    story = (
        "{} buys {} pens for {} dollars each and pays with a 50 dollar bill. What is the change?"
    )
    assert pair(story.format("Amanda", 4, 6), story.format("Amelia", 4, 6))
    assert not pair(story.format("Amanda", 4, 6), story.format("Amanda", 5, 6))
    assert not pair(story.format("Ann", "four", 6), story.format("Ann", "five", 6))


def test_the_most_similar_come_first_and_exact_before_rearranged():
    base = "Why does the moon of a distant planet look so very red at night"
    found = find_overlaps(
        asked(base, prefix="t"),
        asked(f"{base} time", " ".join(reversed(base.split())), base.upper(), prefix="e"),
        0.9,
    )
    assert [o.evaluation.question_id for o in found] == ["e2", "e1", "e0"]
    assert [o.exact for o in found] == [True, False, False]
    assert found[2].similarity < 1


def test_a_pair_is_reported_once_where_both_are_in_both_lists():
    questions = asked("Why is the sky blue?", "why is the sky BLUE")
    found = find_overlaps(questions, questions)
    pairs = [{o.train.question_id, o.evaluation.question_id} for o in found]
    assert sorted(map(sorted, pairs)) == [["q0"], ["q0", "q1"], ["q1"]]


@pytest.mark.parametrize("threshold", [0, -1, 1.5, float("nan")])
def test_a_threshold_outside_its_range_is_refused(threshold):
    with pytest.raises(ValueError, match=r"threshold = .* is outside 0 < threshold <= 1"):
        find_overlaps([], [], threshold)


def test_nothing_overlaps_with_nothing():
    assert find_overlaps([], asked("Why?")) == find_overlaps(asked("Why?"), []) == []
    assert len(pair("?!", "...!")) == 1


WORDS = st.lists(
    st.sampled_from(["red", "Blue", "3", "4", "x+1", "the", "moon", "$y$", "½", "\ud800", "."]),
    max_size=8,
).map(" ".join)
TEXTS = st.one_of(st.text(max_size=40), WORDS)


@given(st.lists(TEXTS, max_size=8), st.lists(TEXTS, max_size=8), st.sampled_from([0.5, 0.8, 0.95]))
@settings(deadline=None)
def test_overlap_is_symmetric(left, right, threshold):
    one, other = asked(*left, prefix="t"), asked(*right, prefix="e")
    there = {(o.train, o.evaluation, o.similarity, o.exact) for o in frozen(one, other, threshold)}
    back = {(o.evaluation, o.train, o.similarity, o.exact) for o in frozen(other, one, threshold)}
    assert there == back


def frozen(one, other, threshold):
    # The property is about texts; ids stand for the questions, which are not hashable.
    found = find_overlaps(one, other, threshold)
    return [
        type(o)(o.train.question_id, o.evaluation.question_id, o.similarity, o.exact) for o in found
    ]


@given(st.lists(TEXTS, min_size=1, max_size=8), st.data())
@settings(deadline=None)
def test_an_exact_repeat_is_always_found(texts, data):
    repeated = data.draw(st.sampled_from(texts))
    found = find_overlaps(asked(*texts, prefix="t"), asked(repeated, prefix="e"))
    assert any(o.exact and o.train.text == repeated for o in found)


@given(TEXTS)
def test_normalising_twice_changes_nothing_more_than_once_for_spaces(text):
    assert "  " not in normalize_question(text)
    assert normalize_question(text) == normalize_question(f"  {text}\n")


@given(st.integers(0, 2**16))
@settings(deadline=None, max_examples=10)
def test_different_sums_are_never_flagged(start):
    task = Arithmetic()
    held_out = task.questions("eval", start % 1000, 200)
    assert find_overlaps(task.questions("train", start, 200), held_out, 0.5) == []


@pytest.mark.parametrize("threshold", [0.6, 0.75, 0.9])
def test_every_pair_at_or_above_the_threshold_is_found(threshold: float):
    from rapidfuzz.distance import Indel

    rng = random.Random(threshold)
    words = ["sun", "moon", "star", "light", "why", "does", "shine", "far"]
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 7))) for _ in range(160)]
    left, right = asked(*texts[:100], prefix="t"), asked(*texts[100:], prefix="e")
    found = {
        (o.train.question_id, o.evaluation.question_id)
        for o in find_overlaps(left, right, threshold)
    }
    for one in left:
        for other in right:
            sides = (" ".join(sorted(q.text.split())) for q in (one, other))
            near = Indel.normalized_similarity(*sides) >= threshold - 1e-6
            assert near == ((one.question_id, other.question_id) in found)
