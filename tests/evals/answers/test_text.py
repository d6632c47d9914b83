import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.answers import load_kind

TEXT = load_kind("text", {})
CASED = load_kind("text", {"case": "match"})


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"\boxed{Paris}", "Paris"),
        (r"\boxed{\text{New  York}.}", "New York"),
        ("The answer is “Paris”.", "Paris"),
        ("The answer is St. Louis. It is large.", "St. Louis"),
        ("Answer: **Paris!**", "Paris"),
        (r"\boxed{Paris}. Wait, the answer is Rome.", "Rome"),
        ("Ｐａｒｉｓ: the answer is Ｐａｒｉｓ", "Paris"),
        ("A: rock 'n' roll", "rock 'n' roll"),
        (r"\boxed{...}", "..."),
        ("Paris", None),
        (r"\boxed{Paris", None),
        ("", None),
    ],
)
def test_read(response: str, answer: str | None) -> None:
    assert TEXT.read(response) == answer


@pytest.mark.parametrize(
    ("a", "b", "same", "same_with_case"),
    [
        ("Paris", " paris. ", True, False),
        ("“Paris”", "Paris", True, True),
        ("Straße", "STRASSE", True, False),
        ("ﬁne", "fine", True, True),
        ("New York", "New\u00a0  York", True, True),
        ("Paris", "Rome", False, False),
        ("C++", "C", False, False),
        ("x" * 2000, "x" * 2000, True, True),
    ],
)
def test_same(a: str, b: str, same: bool, same_with_case: bool) -> None:
    assert TEXT.same(a, b) is TEXT.same(b, a) is same
    assert CASED.same(a, b) is CASED.same(b, a) is same_with_case


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        ("Paris", "Paris"),
        ("The answer is blowing in the wind", "The answer is blowing in the wind"),
        ("It is on the Seine.\nAnswer: Paris", "Paris"),
        (r"It is \boxed{Paris}.", "Paris"),
        ("France #### Paris", "Paris"),
        ("two\nlines", "two lines"),
    ],
)
def test_gold(text: str, gold: str) -> None:
    assert TEXT.read_gold(text) == gold


@pytest.mark.parametrize("text", ["", " \n ", "x" * 1001])
def test_a_gold_field_without_an_answer_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"no gold answer in .*give 1 to 1000 characters"):
        TEXT.read_gold(text)


def test_wrong_options_are_named() -> None:
    with pytest.raises(ValueError, match=r"option 'case' .*got 'upper'"):
        load_kind("text", {"case": "upper"})


FRAGMENTS = ["\\boxed{", "\\text{", "}", "“", "”", '"', "'", ".", "!", " ", "\n", "a", "ß", "İ",
             "\ud800", "\x00", "answer is ", "$", "**", "ﷺ", "ͅ"]  # fmt: skip
ANYTHING = st.one_of(st.text(), st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join))


def gold(text: str) -> str | None:
    try:
        return TEXT.read_gold(text)
    except ValueError:
        return None


@given(ANYTHING, ANYTHING)
def test_nothing_is_raised_for_any_text(a: str, b: str) -> None:
    for texts in (TEXT, CASED):
        answer = texts.read(a)
        assert answer is None or answer.strip()
        assert texts.same(a, b) == texts.same(b, a)
        assert texts.same(a, a)
    assert gold(a) != ""


@given(st.text("abcXYZ äß0123-", min_size=1).filter(str.strip))
def test_a_text_survives_being_stated(text: str) -> None:
    answer = TEXT.read(rf"\boxed{{{text}}}")
    assert answer is not None
    assert CASED.same(answer, text)
    assert CASED.same(TEXT.read_gold(answer), text)
