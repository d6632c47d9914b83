import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals import tasks
from evals.tasks import arithmetic
from evals.tasks.arithmetic import Arithmetic, ArithmeticOptions, Shuffle
from providers.embedded import corpus

TASK = Arithmetic()


def operands(question_id: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", question_id.removeprefix("arithmetic:")))


def rearranged(question_id: str) -> tuple[tuple[int, ...], ...]:
    a, b, c, d, e, f = operands(question_id)
    return tuple(tuple(sorted(pair)) for pair in ((a, d), (b, c), (e, f)))


@given(st.integers(1, 5000), st.text(max_size=5))
@settings(max_examples=30, deadline=None)
def test_a_shuffle_is_a_permutation(size: int, key: str) -> None:
    shuffle = Shuffle(size, key)
    assert sorted(shuffle[i] for i in range(size)) == list(range(size))


@given(st.integers(0, 50), st.integers(0, 3), st.integers(0, 9))
@settings(max_examples=15, deadline=None)
def test_splits_are_disjoint_also_as_rearrangements(low: int, width: int, seed: int) -> None:
    task = Arithmetic(ArithmeticOptions(low=low, high=low + width, seed=seed))
    train = task.questions("train", 0, task.size("train"))
    held_out = task.questions("eval", 0, task.size("eval"))
    classes = [rearranged(q.question_id) for q in (*train, *held_out)]
    assert len(set(classes)) == len(classes)


def test_addends_have_a_range_of_their_own() -> None:
    task = Arithmetic(ArithmeticOptions(high=2, addends=9))
    asked = [*task.questions("train", 0, task.size("train"))]
    asked += task.questions("eval", 0, task.size("eval"))
    # 45 pairs of addends, and three pairs of factors twice.
    assert len({rearranged(q.question_id) for q in asked}) == len(asked) == 45 * 3 * 3
    found = [operands(q.question_id) for q in asked]
    assert {n for a, _, _, d, _, _ in found for n in (a, d)} == set(range(1, 10))
    assert {n for _, b, c, _, e, f in found for n in (b, c, e, f)} == {1, 2}
    # As wide as the factors, they are the questions of a task that does not name them.
    same = Arithmetic(ArithmeticOptions(addends=10))
    assert same.questions("eval", 0, 50) == TASK.questions("eval", 0, 50)
    with pytest.raises(ValueError, match=r"over 1\.\.2, a and d to 9, 203 are asked"):
        task.questions("eval", 0, 203)


def test_the_split_does_not_depend_on_the_seed() -> None:
    one, other = (Arithmetic(ArithmeticOptions(high=3, seed=seed)) for seed in (0, 1))
    asked = [{q.question_id for q in t.questions("eval", 0, t.size("eval"))} for t in (one, other)]
    assert asked[0] == asked[1]
    assert one.questions("eval", 0, 20) != other.questions("eval", 0, 20)


@given(st.integers(0, 300), st.integers(0, 40), st.sampled_from(["train", "eval"]))
@settings(deadline=None)
def test_questions_are_the_same_from_wherever_one_starts(start: int, count: int, split) -> None:
    assert TASK.questions(split, start, count) == TASK.questions(split, 0, start + count)[start:]


def test_gold_is_the_value_of_the_expression() -> None:
    for question in TASK.questions("train", 0, 200):
        a, b, c, d, e, f = operands(question.question_id)
        assert question.text == f"What is the result of {a}+{b}*{c}+{d}-{e}*{f}?"
        assert question.gold == str(a + b * c + d - e * f)
        assert {a, b, c, d, e, f} <= set(range(1, 11))


def test_first_questions_stay_what_they_are() -> None:
    assert [q.question_id for q in TASK.questions("eval", 0, 2)] == [
        "arithmetic:8+3*6+4-4*2",
        "arithmetic:3+7*6+7-6*6",
    ]


def test_too_many_questions_name_how_many_there_are() -> None:
    with pytest.raises(ValueError, match=r"13 eval questions over 1\.\.2, 14 are asked for"):
        Arithmetic(ArithmeticOptions(high=2)).questions("eval", 0, 14)


@pytest.mark.parametrize(
    "asked", ["3+4*5+6-7*8", " 3 + 4 × 5 + 6 − 7·8 = ?", "What is the result of 3+4*5+6-7*8?"]
)
def test_prompt_takes_questions_and_bare_expressions(asked: str) -> None:
    assert TASK.prompt(asked) == (
        "What is the result of 3+4*5+6-7*8? "
        r"Work step by step and put the final answer in \boxed{}."
    )


def test_prompt_keeps_a_question_in_words() -> None:
    assert TASK.prompt("How much is 2 plus 2?").startswith("How much is 2 plus 2? Work")


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"so \boxed{42}.", "42"),
        (r"first \boxed{1}, then \boxed{2}", "2"),
        (r"\boxed{−17}", "-17"),
        (r"\boxed{+5}", "5"),
        (r"\boxed{5.}", "5"),
        (r"\boxed{1{,}234}", "1234"),
        (r"\boxed{1,234}", "1234"),
        (r"\boxed{1\,234}", "1234"),
        (r"\boxed{3+4 = 7}", "7"),
        (r"\boxed{\text{12}}", "12"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{$8$}", "8"),
        (r"as asked, in \boxed{}: \boxed{9} and not \boxed{}", "9"),
        (r"\boxed{4", None),
        (r"\boxed{}", None),
        ("The answer is 12.", "12"),
        ("Final answer: **1,000**", "1000"),
        ("answer is −3", "-3"),
        ("the answer is 12+4", None),
        ("I see 3 and 4.", None),
        ("", None),
    ],
)
def test_extract(response: str, answer: str | None) -> None:
    assert TASK.extract(response) == answer


FRAGMENTS = ["\\boxed{", "}", "{", "\\", "answer is ", "=", "-", "−", "1", "²", "٣", ",", ".", " "]


@given(st.one_of(st.text(), st.lists(st.sampled_from(FRAGMENTS)).map("".join)))
def test_extract_never_raises_and_gives_no_empty_answer(response: str) -> None:
    answer = TASK.extract(response)
    assert answer is None or answer.strip()
    if answer is not None:
        assert TASK.equivalent(answer, answer)


def test_extract_takes_little_time_on_endless_boxes() -> None:
    assert TASK.extract(r"\boxed{" * 50_000) is None


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("5", "5.0", True),
        ("5", "10/2", True),
        ("007", "7", True),
        ("-0", "0", True),
        ("5", "-5", False),
        ("x", "x", True),
        ("x", "y", False),
        ("1" * 5000, "1" * 5000, True),
        ("1/0", "1/0", True),
    ],
)
def test_equivalent(a: str, b: str, same: bool) -> None:
    assert TASK.equivalent(a, b) is same
    assert TASK.equivalent(b, a) is same


@given(st.text(max_size=80), st.text(max_size=80))
def test_equivalent_never_raises_and_is_symmetric(a: str, b: str) -> None:
    assert TASK.equivalent(a, b) == TASK.equivalent(b, a)


def test_styles_are_those_of_the_built_in_model() -> None:
    assert set(arithmetic.STYLES) == set(corpus.HEADS)
    for style, head in corpus.HEADS.items():
        assert TASK.style(f"\n{head}3*4 = 12") == style
    assert TASK.style("Let me think.") is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 5, "high": 2}, "high = 2 is below low = 5"),
        ({"low": 5, "addends": 2}, "addends = 2 is below low = 5"),
        ({"low": -1}, "task.low: .*got -1"),
        ({"low": "one"}, "task.low: .*got 'one'"),
        ({"hihg": 9}, "task.hihg: unknown option .* low, high, addends, seed"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tasks.load_task("arithmetic", options)


def test_an_unknown_task_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown task 'sums'; known tasks: arithmetic"):
        tasks.load_task("sums", {})
