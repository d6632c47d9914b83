"""Text from models becomes text on a page, whatever is in it."""

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.invisible import escape_invisible, one_line
from society.view.hidden_marks import mark_invisible
from society.view.pages import FOLD_AT, SHOWN_AT_MOST, fold_text, format_inline

HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069\ufeff]")


@given(st.text())
def test_nothing_is_markup_and_nothing_is_hidden(text):
    shown = str(mark_invisible(text))
    without_marks = re.sub(
        r'<span class="hidden-character" title="[^"<>]*">[^<>]*</span>', "", shown
    )
    assert "<" not in without_marks
    assert not HIDDEN.search(shown)
    assert not HIDDEN.search(escape_invisible(text))


FILLERS = "\u115f\u1160\u3164\uffa0"
ORDINARY = st.characters(
    categories=["L", "N", "P", "S"], include_characters=" \n\t", exclude_characters=FILLERS
)


@given(st.text(ORDINARY))
def test_ordinary_text_is_left_as_it_is(text):
    assert html.unescape(str(mark_invisible(text))) == text


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("\x1b[1;31mred\x1b[0m", ["ESC[1;31m", "ESC[0m"]),
        ("\x1b]8;;http://x\x07", ["ESC", "BEL"]),
        ("\u202eabc\u202c", ["RLO", "PDF"]),
        ("\u2067abc\u2069", ["RLI", "PDI"]),
        ("a\x00b\x7f", ["NUL", "DEL"]),
        ("\x9b31m", ["U+009B"]),
        ("\u200b\ufeff", ["ZWSP", "BOM"]),
        ("\U000e0041", ["U+E0041"]),
        ("a\r\nb", ["CR"]),
        ("a\u3164b\u034f", ["U+3164", "CGJ"]),
        ("\ud800", ["U+D800"]),
        ("\U000e0100", ["U+E0100"]),
    ],
)
def test_hidden_characters_are_named(text, marks):
    assert re.findall(r">([^<>]+)</span>", str(mark_invisible(text))) == marks
    assert all(f"[{mark}]" in escape_invisible(text) for mark in marks)


def test_emoji_and_persian_keep_their_joiners():
    for text in ("👩\u200d👩\u200d👧", "می\u200cخواهم"):
        assert mark_invisible(text) == text


def test_a_long_text_is_folded_and_a_huge_one_cut():
    lines = "a line of text\n" * 20_000
    part = fold_text(lines)
    assert part.head.endswith("\n")
    assert len(part.head) <= FOLD_AT
    assert part.head + part.rest == lines[:SHOWN_AT_MOST]
    assert part.cut == len(lines) - SHOWN_AT_MOST
    assert fold_text("short").rest == ""


def test_an_inline_text_is_one_isolated_line():
    assert format_inline("a\n b", 40) == '<bdi class="said">a b</bdi>'
    assert "…" in format_inline("word " * 100, 40)


def test_one_line_has_no_place_for_another():
    assert one_line("run x: finished\nrun y:\u2028\x85 done") == (
        "run x: finished run y:[LSEP][U+0085] done"
    )
