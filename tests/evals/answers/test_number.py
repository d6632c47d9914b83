from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.answers import load_kind
from evals.answers.numerals import format_number, parse_number

NUMBER = load_kind("number", {})
STRICT = load_kind("number", {"fallback": False})


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("18", "18"),
        ("18.", "18"),
        ("5.", "5"),
        (".5", "0.5"),
        ("+5", "5"),
        ("007", "7"),
        ("3.50", "3.5"),
        ("-0", "0"),
        ("１８", "18"),
        ("(5)", "5"),
        ("**18**", "18"),
        (r"\text{18}", "18"),
        (r"\mathbf{18}", "18"),
        (r"\left(18\right)", "18"),
        (r"18 \\", "18"),
        # signs
        ("-5", "-5"),
        ("−5", "-5"),
        ("–5", "-5"),
        ("- 5", "-5"),
        ("(−5)", "-5"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("minus 5", "-5"),
        # money
        ("$18", "18"),
        (r"\$1{,}234.50", "1234.5"),
        ("USD 18", "18"),
        ("US$ 18", "18"),
        ("18 €", "18"),
        ("£1,080.50", "1080.5"),
        ("18 dollars", "18"),
        # thousands
        ("1,080", "1080"),
        ("1 080", "1080"),
        ("1\u202f080", "1080"),
        ("1{,}080", "1080"),
        (r"1\,080", "1080"),
        (r"1,\!080", "1080"),
        ("1_080", "1080"),
        ("1'080", "1080"),
        ("1,000,000", "1000000"),
        ("1.5 million", "1500000"),
        ("$3 billion dollars", "3000000000"),
        ("18k", "18000"),
        # units
        ("50%", "50"),
        (r"50\%", "50"),
        ("50 percent", "50"),
        ("5 km/h", "5"),
        ("5kg", "5"),
        (r"5\text{ cm}", "5"),
        (r"5 \text{ apples}", "5"),
        (r"5\text{ cm}^2", "5"),
        ("5 m²", "5"),
        (r"90^\circ", "90"),
        (r"90^{\circ}", "90"),
        ("5 °C", "5"),
        ("18 a day", "18"),
        ("18元", "18"),
        ("18 eggs for the 7 days", "18"),
        ("5 (five)", "5"),
        # fractions
        ("3/4", "0.75"),
        (r"\frac{3}{4}", "0.75"),
        (r"\frac34", "0.75"),
        (r"-\dfrac{3}{4}", "-0.75"),
        (r"\frac{-1}{3}", "-1/3"),
        ("½", "0.5"),
        ("1/3", "1/3"),
        ("10/2", "5"),
        ("1 1/2", "1.5"),
        ("1½", "1.5"),
        (r"-1\frac{1}{2}", "-1.5"),
        ("2 and 1/2 hours", "2.5"),
        # powers of ten
        ("1.5e3", "1500"),
        ("1.5E-3", "0.0015"),
        (r"1.5 \times 10^3", "1500"),
        (r"1.5\times10^{-3}", "0.0015"),
        ("1.5 × 10³", "1500"),
        (r"10^{6}", "1000000"),
        # equations
        ("x = 5", "5"),
        ("3+4 = 7", "7"),
        ("16 eggs - 3 = 13", "13"),
        ("≈ 3.14", "3.14"),
        (r"x \approx 3.14", "3.14"),
        (r"\text{Total} = 18 \text{ apples}", "18"),
        ("about 18", "18"),
        ("18 since x = 2", "18"),
        ("18 (16 - 3 + 5 = 18)", "18"),
    ],
)
def test_a_number_is_read_however_it_is_written(written: str, value: str) -> None:
    assert NUMBER.read(rf"\boxed{{{written}}}") == value
    assert NUMBER.read_gold(written) == value


@pytest.mark.parametrize(
    "written",
    [
        "", " ", "-", "$", "five", "x", "--5", "1/0", "12+4", "5*3", "2^3", "5!", "1 and 2",
        "5 or 6", "5 to 10", "5-10", "5–10", "3:4", "12:30", "2024-01-05", "3/4/2020", "1.2.3",
        "(3, 4)",
        "[2,3]", "12,34", "1,0800", "3rd", "5x", "5i", "5π", r"5\pi", r"5\sqrt{2}", "18 - x",
        "5(x+1)", r"5 \pm 1", "x < 5", "x <= 5", r"x \neq 5", "x = 5, y = 3", "x = 5 or x = 6",
        "2 hours 30 minutes", "3 apples and 4 pears", "5'10\"", "5 out of 10", "1e9999", "10^{401}",
        "9" * 401, "2 4/3", "1e99999", "5 x 3",
    ],
)  # fmt: skip
def test_what_is_not_one_number_is_none(written: str) -> None:
    assert NUMBER.read(rf"so \boxed{{{written}}}") is None
    with pytest.raises(ValueError, match="no gold number in"):
        NUMBER.read_gold(written)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"\boxed{5}. Wait, the answer is 7.", "7"),
        (r"\boxed{7}. So the answer: it is the number of ducks.", "7"),
        (r"The answer is 5. \boxed{x}", "5"),
        ("#### 18\n#### 1,080", "1080"),
        ("The answer is 18 dollars per day because 3*6 = 18.", "18"),
        ("The answer is 12+4 = 16.", "16"),
        ("The answer is 18, and I am sure.", "18"),
        ("My answer is 18 and I agree with agent 2.", "18"),
        ("My answer is 18 and she is right.", "18"),
        ("The answer is 18 and twenty.", None),
        ("The answer is 18, not 20.", "18"),
        ("The answer is 18 not 20.", "18"),
        ("The answer is 5 and a half.", None),
        ("the answer is 12+4", None),
        (r"\boxed{18", None),
        ("Janet makes $18 every day.", None),
    ],
)
def test_the_last_statement_that_is_a_number_counts(response: str, answer: str | None) -> None:
    assert STRICT.read(response) == answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("Janet makes $18 every day.", "18"),
        ("So she makes **18** dollars!", "18"),
        ("She has 16 eggs.\nSo it's 18.\n\n", "18"),
        ("The total is\n\\[\n18\n\\]", "18"),
        ("Answer: Janet makes $18 every day.", "18"),
        ("9 * 2 = $<<9*2=18>>18", "18"),
        ("It drops to −5.", "-5"),
        ("- 18", "18"),
        ("18 on the 3rd day", "18"),
        ("She has 5 at 12:30.", "5"),
        ("She had 7 on July 5, 2024.", "7"),
        ("She had 7 on 5 July 2024.", "7"),
        ("She needs 2 to 3 hours for 18 dollars", "18"),
        ("x" * 5000 + " 18", "18"),
        ("She saves 1/2 of it", "0.5"),
        ("total=18", "18"),
    ],
)
def test_the_fallback_takes_the_last_number_of_the_last_line(response: str, answer: str) -> None:
    assert NUMBER.read(response) == answer


@pytest.mark.parametrize(
    "response",
    [
        "", "Nothing.", "3. Multiply by two", "Step 3:", "She leaves at 12:30.", "It is the 3rd.",
        "It was on July 5, 2024.", "It is 1 and 2.", "1, 2, 3", "5-10 eggs",
        "between 5 and 10 eggs", "6 feet 3 inches", "7 dollars and 50 cents", "She has 16 - 3",
        "eggs * 2", "room B12", "on covid-19", r"$2\sqrt{3}$", "How many are 5?",
        r"so \boxed{18", r"\boxed{x+5}", "the answer is 12+4", "The answer is not 5",
        "The answer can't be 5", "A: 5+John's age", "8" * 5000,
        "18 eggs\nDone.",
    ],
)  # fmt: skip
def test_the_fallback_guesses_nothing_else(response: str) -> None:
    assert NUMBER.read(response) is None


def test_with_integers_a_box_is_kept_as_it_is_written() -> None:
    integers = load_kind("number", {"integers": True, "fallback": False})
    assert integers.read(r"\boxed{\frac{1}{2}}") == r"\frac{1}{2}"
    assert integers.read(r"\boxed{x}. The answer is y.") == "x"
    assert integers.read(r"\boxed{1,234.0}") == "1234"


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("0.5", "1/2", True),
        ("1e3", "1,000", True),
        ("50", "50%", True),
        ("0.1", "0.10000000000000001", False),
        ("5", "-5", False),
        ("x", " x ", True),
        ("1/0", "1/0", True),
        ("1e9999", "1e9999", True),
        ("1e9999", "1e9998", False),
        ("1" * 5000, "1" * 5000, True),
        ("1" * 5000, "1", False),
        ("", "0", False),
    ],
)
def test_numbers_are_compared_exactly(a: str, b: str, same: bool) -> None:
    assert NUMBER.same(a, b) is same
    assert NUMBER.same(b, a) is same


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("3244047.0999999996", "3244047.1", True),
        ("3244047.1", "3244048.1", False),
        ("-0.30000000000000004", "-0.3", True),
        ("42", "42.0000004", True),
        ("42", "42.00001", False),
        ("42", "43", False),
        ("1/3", "0.3333333", True),
        ("1.2e-06", "1.3e-06", False),
        ("1.2e-06", "0.0000012000001", True),
        ("0", "-0.00000000000000005", True),
        ("0", "0.001", False),
        ("5", "-5", False),
        ("1234567890123456.1", "1234567890123456.2", True),
        ("1234567890123456", "1234567890133456", False),
        ("x", "5", False),
    ],
)
def test_with_a_tolerance_the_noise_of_floats_is_no_difference(a: str, b: str, same: bool) -> None:
    tolerant = load_kind("number", {"tolerance": 1e-6})
    assert tolerant.same(a, b) is same
    assert tolerant.same(b, a) is same


@pytest.mark.parametrize("tolerance", [0, -1e-6, 2, float("nan"), float("inf"), "small"])
def test_a_tolerance_that_makes_no_sense_is_named(tolerance: object) -> None:
    with pytest.raises(ValueError, match=r"option 'tolerance' of the answer kind number: .*got"):
        load_kind("number", {"tolerance": tolerance})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no number here",
        "two\nlines 5",
        "x" * 5000,
        "16 eggs were laid and she ate three of them",
    ],
)
def test_a_gold_field_without_a_number_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="no gold number in"):
        NUMBER.read_gold(text)


def test_wrong_options_are_named() -> None:
    with pytest.raises(ValueError, match="'fallbak' of the answer kind number; it has fallback"):
        load_kind("number", {"fallbak": True})
    with pytest.raises(ValueError, match=r"option 'fallback' .*got 'yes'"):
        load_kind("number", {"fallback": "yes"})
    with pytest.raises(ValueError, match="unknown kind of answer 'numbers'; known kinds: number"):
        load_kind("numbers", {})


def test_the_gold_of_a_solution_is_what_it_states_not_how_it_begins() -> None:
    assert NUMBER.read_gold("16 eggs were laid. #### 18") == "18"


FRAGMENTS = [
    "\\boxed{", "}", "{", "\\frac", "\\text{", "answer is ", "\n", "####", "=", "-", "−", "1",
    "10^", "²", "٣", ",", ".", " ", "e", "/", "½", "$", "%", "(", ")", "million", "and", "e400",
    "9" * 450, "\ud800", "\x00", ":", "<<", ">>", "K", "°", "x", "*",
]  # fmt: skip
ANYTHING = st.one_of(st.text(), st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join))


def gold(text: str) -> str | None:
    try:
        return NUMBER.read_gold(text)
    except ValueError:
        return None


@given(ANYTHING, ANYTHING)
def test_nothing_is_raised_for_any_text(a: str, b: str) -> None:
    answer = NUMBER.read(a)
    assert answer is None or NUMBER.read_gold(answer) == answer
    assert NUMBER.same(a, b) == NUMBER.same(b, a)
    assert NUMBER.same(a, a)
    known = gold(a)
    assert known is None or parse_number(known) is not None


@given(st.fractions())
def test_a_number_survives_being_stated(value: Fraction) -> None:
    text = format_number(value)
    assert parse_number(text) == value
    assert NUMBER.read(rf"\boxed{{{text}}}") == text
    assert NUMBER.read(f"So the answer is {text}.") == text
    assert NUMBER.read(f"#### {text}") == text
    assert NUMBER.read_gold(text) == text


@pytest.mark.parametrize(
    "endless",
    ["1" * 1_000_000, "1 " * 500_000, "answer is 5+" * 50_000, r"\boxed{1+}" * 50_000,
     r"\boxed{" + " " * 900 + "x}", r"\boxed{\frac{1}" * 50_000, "1=" * 300_000],
    ids=lambda text: repr(text[:12]),
)  # fmt: skip
def test_endless_numbers_take_linear_time(endless: str) -> None:
    assert NUMBER.read(endless) is None
