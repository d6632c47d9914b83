import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.answers import load_kind


@pytest.mark.parametrize(
    ("pattern", "response", "answer"),
    [
        (r"[0-9]+", "1, 2 and 3", "3"),
        (r"result: (\w+)", "Result: x\nresult: y.", "y"),
        (r"(\w+) is the (?P<answer>\w+)", "this is the end", "end"),
        (r"^final: (.*)$", "Final: two words \nbye", "two words"),
        (r"(a)|b", "a then b", "a"),
        (r"x*", "abc", None),
        (r"z", "abc", None),
    ],
)
def test_the_last_match_counts(pattern: str, response: str, answer: str | None) -> None:
    assert load_kind("regex", {"pattern": pattern}).read(response) == answer


def test_case_matters_where_asked() -> None:
    cased = load_kind("regex", {"pattern": r"is (\w+)", "case": "match"})
    assert cased.read("is Low. IS HIGH") == "Low"
    assert not cased.same("Low", "low")
    assert load_kind("regex", {"pattern": r"is (\w+)"}).same("Low", "low")


def test_gold_is_what_matches_or_the_text_itself() -> None:
    result = load_kind("regex", {"pattern": r"result: (\w+)"})
    assert result.read_gold("result: y") == "y"
    assert result.read_gold(" y ") == "y"
    with pytest.raises(ValueError, match="no gold answer in ''"):
        result.read_gold("")


def test_the_form_shows_the_pattern() -> None:
    assert r"result: (\w+)" in load_kind("regex", {"pattern": r"result: (\w+)"}).form


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "(a"}, r"option 'pattern' .*'\(a' is no regular expression: missing \)"),
        ({"pattern": r"\L<names>"}, "is no regular expression"),
        ({"pattern": ""}, "option 'pattern' .*got ''"),
        ({}, "option 'pattern' of the answer kind regex is missing"),
    ],
)
def test_a_wrong_pattern_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_kind("regex", options)


def test_a_search_without_end_finds_nothing() -> None:
    assert load_kind("regex", {"pattern": "(a|aa)+$"}).read("a" * 200 + "b") is None


WORDS = load_kind("regex", {"pattern": r"(\w+)\W*$"})


def gold(text: str) -> str | None:
    try:
        return WORDS.read_gold(text)
    except ValueError:
        return None


@given(st.text(), st.text())
def test_nothing_is_raised_for_any_text(a: str, b: str) -> None:
    answer = WORDS.read(a)
    assert answer is None or answer.strip()
    assert WORDS.same(a, b) == WORDS.same(b, a)
    assert WORDS.same(a, a)
    assert gold(a) != ""
