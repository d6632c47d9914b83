r"""Answers between markers made for them: ``<answer>42</answer>``, ``{"answer": 42}``."""

from __future__ import annotations

import re
from collections.abc import Iterator

_NAMES = r"(?:final[_ -]?)?answer|ans|final|(?:final[_ -]?)?(?:result|output)|conclusion|solution"
_OPENING = re.compile(
    rf"""
      <(?P<tag>{_NAMES}|response)(?:\s[^<>]{{0,80}})?>
    | <\|(?:begin_of_(?P<begun>solution|box|answer)|START_(?P<started>RESPONSE|ANSWER))\|>
    | \[(?P<bracket>ANSWER|FINAL[ ]ANSWER)\]
    | \[BEGIN[ ](?P<final>FINAL[ ]RESPONSE|FINAL[ ]ANSWER)\]
    """,
    re.VERBOSE | re.IGNORECASE,
)
_STRING = r'"(?:[^"\\\n]|\\.){0,1000}"' + r"|'(?:[^'\\\n]|\\.){0,1000}'"
_PAIR = re.compile(
    rf"""
    (?P<quote>["'])(?:the[_ ])?(?:final|correct|right)?[_ -]?(?:answer|choice|result)(?P=quote)
    \s{{0,4}}:\s{{0,4}}
    (?: (?P<string>{_STRING}) | (?P<list>\[[^\[\]\n]{{0,1000}}\])
      | (?P<number>[-+]?[0-9][0-9.eE+_-]*|\.[0-9]+) | (?P<word>true|false|yes|no)\b | )
    """,
    re.VERBOSE | re.IGNORECASE,
)
_EDGE_QUOTES = re.compile(r"""^['"]|['"]$""")


def tagged(text: str) -> Iterator[tuple[int, int, int, int]]:
    """(start, inside, close, end) of every answer tag; a tag that nothing closes runs to the end.

    Of tags within tags the innermost speak. Linear time.
    """
    opened = list(_OPENING.finditer(text))
    for place, mark in enumerate(opened):
        following = opened[place + 1].start() if place + 1 < len(opened) else len(text)
        closing = _closing(mark).search(text, mark.end(), following)
        if closing is not None:
            yield mark.start(), mark.end(), closing.start(), closing.end()
        elif following == len(text):
            yield mark.start(), mark.end(), len(text), len(text)


def _closing(mark: re.Match[str]) -> re.Pattern[str]:
    if mark["tag"]:
        return re.compile(rf"<\\?/\s?{re.escape(mark['tag'])}\s?>", re.IGNORECASE)
    if mark["begun"]:
        return re.compile(rf"<\|end_of_{mark['begun']}\|>", re.IGNORECASE)
    if mark["started"]:
        return re.compile(rf"<\|END_{mark['started']}\|>", re.IGNORECASE)
    if mark["bracket"]:
        return re.compile(rf"\[/{mark['bracket']}\]", re.IGNORECASE)
    return re.compile(rf"\[END {mark['final']}\]", re.IGNORECASE)


def keyed(text: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, value) of every answer in JSON or in a Python dictionary; a value that is null
    or an object is blank."""
    for pair in _PAIR.finditer(text):
        if pair["string"] is not None:
            value = _unescaped(pair["string"][1:-1])
        elif pair["list"] is not None:
            items = (_EDGE_QUOTES.sub("", item.strip()) for item in pair["list"][1:-1].split(","))
            value = ", ".join(items)
        else:
            value = pair["number"] or pair["word"] or ""
        yield pair.start(), pair.end(), value


def _unescaped(string: str) -> str:
    r"""A string's text. ``\f`` and the like stay: they begin a LaTeX command more often."""
    return re.sub(r"\\([\\\"'/])", r"\1", string)
