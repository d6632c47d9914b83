import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.answers import load_kind

CHOICE = load_kind("choice", {})


@pytest.mark.parametrize(
    "response",
    [
        r"\boxed{B}", r"\boxed{b}", r"\boxed{(B)}", r"\boxed{\text{(B)}}", r"\boxed{(\text{B})}",
        r"\boxed{\textbf{B}}", r"$\boxed{\mathrm{B}}$", r"\boxed{B.}", r"\boxed{B: 42}",
        r"\boxed{\text{B) } 42}", r"\boxed{B) mitochondria}", "B", "B.", "(B)", "**B**", "B) text",
        "(B) text", "**B) text**", "B. text", "Answer: B", "Answer: (b)", "answer: b", "A: B",
        "Answer: B. Mitochondria make energy.", "The answer is **B**", "The answer is **B**.",
        "The answer is (B) mitochondria.", "The answer is B because it is.",
        "The answer is B, which makes energy.", "The answer is: B - mitochondria",
        "The answer is option B.", 'The answer is "B".', "The correct option is B: mitochondria",
        "The best answer is B (mitochondria).", "Option B", "So it is\nOption B", "x\nB",
        "We can rule out A.\nTherefore, option B is correct.", "So B is the correct answer.",
        "Hence (B).", "I choose B.", r"\boxed{A}. Wait, the answer is B.",
        r"\boxed{B}. The answer is E.", r"\boxed{B}. The answer: it is a hard one.",
    ],
)  # fmt: skip
def test_the_letter_is_read_wherever_it_is_stated(response: str) -> None:
    assert CHOICE.read(response) == "B"


def test_a_statement_comes_before_the_last_line() -> None:
    assert CHOICE.read("The answer is a.\nB. is wrong") == "A"


@pytest.mark.parametrize(
    "response",
    [
        "", "The answer is A good idea", "The answer is a good idea.", "A good idea", "I", "b",
        "The answer is A and B", "The answer is (A) or (B).", "Answer: A, C", r"\boxed{A, C}",
        r"\boxed{AC}", r"\boxed{E}", "The answer is E.", "Answer: 2", "Answer: Neither A nor B",
        "A. x\nB. y\n\nC. z\nD. w", "(A)\n(B)", "Not sure: (A) or (B)", "Is it (B)?",
        "The answer is C major", "A dog barks", r"\boxed{B",
    ],
)  # fmt: skip
def test_what_names_no_single_letter_is_none(response: str) -> None:
    assert CHOICE.read(response) is None


def test_the_choices_bound_the_letters() -> None:
    two, all_of_them = load_kind("choice", {"choices": 2}), load_kind("choice", {"choices": 26})
    assert two.read(r"\boxed{C}") is None
    assert all_of_them.read(r"\boxed{Z}") == "Z"
    with pytest.raises(ValueError, match=r"option 'choices' .*got 27"):
        load_kind("choice", {"choices": 27})
    with pytest.raises(ValueError, match=r"option 'choices' .*got 1"):
        load_kind("choice", {"choices": 1})


@pytest.mark.parametrize("text", ["B", "b", " (B) ", "Since so,\nthe answer is B.", "#### B"])
def test_gold_is_a_letter(text: str) -> None:
    assert CHOICE.read_gold(text) == "B"


@pytest.mark.parametrize("text", ["", "1", "E", "A and B", "x" * 2000])
def test_a_gold_field_without_a_letter_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"no gold choice in .* from A to D"):
        CHOICE.read_gold(text)


def test_the_same_letter_is_the_same_answer() -> None:
    assert CHOICE.same("B", "(b)")
    assert not CHOICE.same("B", "C")


@given(st.sampled_from(string.ascii_uppercase))
def test_a_letter_survives_being_stated(letter: str) -> None:
    letters = load_kind("choice", {"choices": 26})
    for form in (r"\boxed{%s}", "The answer is %s.", "Answer: (%s)", "so\n%s"):
        assert letters.read(form % letter) == letter
    assert letters.read_gold(letter) == letter


FRAGMENTS = [
    "\\boxed{", "}", "{", "\\text", "answer is ", "\n", "(", ")", "A", "b", "C.", " or ", ",", " ",
    "option ", "is correct", "**", "\ud800", "\x00", "I",
]  # fmt: skip
ANYTHING = st.one_of(st.text(), st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join))


def gold(text: str) -> str | None:
    try:
        return CHOICE.read_gold(text)
    except ValueError:
        return None


@given(ANYTHING, ANYTHING)
def test_nothing_is_raised_for_any_text(a: str, b: str) -> None:
    answer = CHOICE.read(a)
    assert answer in (None, "A", "B", "C", "D")
    assert CHOICE.same(a, b) == CHOICE.same(b, a)
    assert CHOICE.same(a, a)
    assert gold(a) in (None, "A", "B", "C", "D")


@pytest.mark.parametrize("endless", ["(A" * 400_000, r"\boxed{A or B}" * 50_000, "A\n" * 400_000])
def test_endless_letters_take_linear_time(endless: str) -> None:
    assert CHOICE.read(endless) in (None, "A")
