"""What a revision changed."""

from hypothesis import given
from hypothesis import strategies as st

from society.view.word_diff import MOST_WORDS, diff_words

WORDS = st.lists(st.sampled_from(["so", "7", "*", "70", "=", ".", "\n", "then", " "]), max_size=30)


@given(WORDS, WORDS)
def test_both_versions_can_be_read_from_the_pieces(old, new):
    before, after = "".join(old), "".join(new)
    pieces = diff_words(before, after)
    assert "".join(piece.text for piece in pieces if piece.change != "new") == before
    assert "".join(piece.text for piece in pieces if piece.change != "gone") == after


def test_words_are_whole_and_phrases_stay_together():
    found = diff_words("It is 2*9 = 18, so 50.", "It is 2*9 = 19, so 60.")
    assert [(piece.change, piece.text) for piece in found] == [
        ("same", "It is 2*9 = "),
        ("gone", "18"),
        ("new", "19"),
        ("same", ", so "),
        ("gone", "50"),
        ("new", "60"),
        ("same", "."),
    ]


def test_the_same_text_is_one_piece():
    assert [piece.change for piece in diff_words("a b", "a b")] == ["same"]


def test_huge_texts_are_not_compared():
    assert diff_words("word " * MOST_WORDS, "word") is None
