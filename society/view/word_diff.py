"""What a revision changed, word by word."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from rapidfuzz.distance import LCSseq

Change = Literal["same", "gone", "new"]
# The comparison takes time and memory that grow with the product of both lengths.
MOST_WORDS = 12_000
# White space and punctuation are tokens of their own, so that the pieces join to the exact texts.
_TOKEN = re.compile(r"\s+|\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class DiffPiece:
    """A stretch of text that both versions have, or only the earlier, or only the later one."""

    change: Change
    text: str


def diff_words(before: str, after: str) -> list[DiffPiece] | None:
    """The later text with what is new and what is gone, along a longest common subsequence.

    The pieces that are not "new" make `before`, those that are not "gone" make `after`. None where
    a text has more than `MOST_WORDS` words and marks.
    """
    old, new = _TOKEN.findall(before), _TOKEN.findall(after)
    if max(len(old), len(new)) > MOST_WORDS:
        return None
    return list(_merge_pieces(_smooth_pieces(list(_list_pieces(old, new)))))


def _list_pieces(old: Sequence[str], new: Sequence[str]) -> Iterator[DiffPiece]:
    for step in LCSseq.opcodes(old, new):
        was = "".join(old[step.src_start : step.src_end])
        now = "".join(new[step.dest_start : step.dest_end])
        if step.tag == "equal":
            yield DiffPiece("same", now)
            continue
        if was:
            yield DiffPiece("gone", was)
        if now:
            yield DiffPiece("new", now)


def _smooth_pieces(pieces: Sequence[DiffPiece]) -> Iterator[DiffPiece]:
    """Blanks and marks between two changes become part of both, so that phrases stay whole."""
    last = len(pieces) - 1
    for number, piece in enumerate(pieces):
        inside = 0 < number < last and piece.change == "same"
        # A line break stays a border, so that changed paragraphs are shown one by one.
        if inside and not re.search(r"\w", piece.text) and "\n" not in piece.text:
            yield DiffPiece("gone", piece.text)
            yield DiffPiece("new", piece.text)
        else:
            yield piece


def _merge_pieces(pieces: Iterator[DiffPiece]) -> Iterator[DiffPiece]:
    """Between two stretches that stayed: first all that is gone, then all that is new."""
    for stayed, group in groupby(pieces, key=lambda piece: piece.change == "same"):
        run = list(group)
        for change in ("same",) if stayed else ("gone", "new"):
            text = "".join(piece.text for piece in run if piece.change == change)
            if text:
                yield DiffPiece(change, text)  # type: ignore[arg-type]
