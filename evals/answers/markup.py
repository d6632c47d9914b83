r"""Answers between markers: LaTeX boxes, answer tags, and the key "answer" of JSON.

``\boxed{42}``, ``\fbox{42}``, ``\boxed 5``; ``<answer>42</answer>``, ``[ANSWER]42[/ANSWER]``;
``{"answer": 42}``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# A box, an escaped character, or a brace. Without a brace a box takes a number, a capital letter or
# a fraction: "\boxed 5", "\boxed\frac{1}{2}".
_TOKEN = re.compile(
    r"""
    \\?\\(?:boxed|fbox)(?![A-Za-z])\s*          # two backslashes: escaped once too often
      (?: (?P<open>\{)
        | (?P<bare> [-+−]?\.?[0-9][^\s${}\\]* | [A-Z](?!\w)
                  | \\[dt]?frac\{[^{}]{1,100}\}\{[^{}]{1,100}\} )
      )?
    | \\.
    | [{}]
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Box:
    """`text[start:end]` is the whole box, `text[inside:close]` what stands in it."""

    start: int
    inside: int
    close: int
    end: int


@dataclass(frozen=True, slots=True)
class Boxes:
    """`innermost` holds the closed boxes that are not empty and hold no other such box;
    `outermost` the closed boxes that stand in no other. Both are in order of position."""

    innermost: tuple[Box, ...]
    outermost: tuple[Box, ...]


def find_boxes(text: str) -> Boxes:
    r"""Every closed box. Escaped braces (``\{``) are text; an unclosed box is none. Linear time."""
    innermost: list[Box] = []
    outermost: list[Box] = []
    # Per open brace: where its box starts and its inside, and how many innermost boxes precede it.
    pending: list[tuple[int, int, int] | None] = []
    for token in _TOKEN.finditer(text):
        if token["open"]:
            pending.append((token.start(), token.end(), len(innermost)))
            continue
        if token["bare"]:
            inside = token.start("bare")
            close = inside + len(token["bare"].rstrip(".,;:!?)*"))
            box = Box(token.start(), inside, close, close)
            innermost.append(box)
        elif token[0] == "{":
            pending.append(None)
            continue
        elif token[0] == "}" and pending and (opened := pending.pop()) is not None:
            start, inside, preceding = opened
            box = Box(start, inside, token.start(), token.end())
            if len(innermost) == preceding and text[inside : box.close].strip():
                innermost.append(box)
        else:
            continue
        while outermost and outermost[-1].start > box.start:
            outermost.pop()
        outermost.append(box)
    return Boxes(tuple(innermost), tuple(outermost))


_NAMES = r"(?:final[_ -]?)?answer|ans|final|(?:final[_ -]?)?(?:result|output)|conclusion|solution"
# Answer tags that prompts and chat templates ask for.
_OPENING = re.compile(
    rf"""
      <(?P<tag>{_NAMES}|response)(?:\s[^<>]{{0,80}})?>
    | <\|(?:begin_of_(?P<begun>solution|box|answer)|START_(?P<started>RESPONSE|ANSWER))\|>
    | \[(?P<bracket>ANSWER|FINAL[ ]ANSWER)\]
    | \[BEGIN[ ](?P<final>FINAL[ ]RESPONSE|FINAL[ ]ANSWER)\]
    """,
    re.VERBOSE | re.IGNORECASE,
)
# A JSON or Python string on one line; its length is bounded so that an open quote costs linear
# time.
_STRING = r'"(?:[^"\\\n]|\\.){0,1000}"' + r"|'(?:[^'\\\n]|\\.){0,1000}'"
# The key "answer" of JSON or of a Python dictionary, with the value; an object or null is blank.
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


def find_tags(text: str) -> Iterator[tuple[int, int, int, int]]:
    """(start, inside, close, end) of every answer tag; a tag that nothing closes runs to the end.

    Of tags within tags the innermost speak. Linear time.
    """
    opened = list(_OPENING.finditer(text))
    for place, mark in enumerate(opened):
        following = opened[place + 1].start() if place + 1 < len(opened) else len(text)
        closing = _closing_pattern(mark).search(text, mark.end(), following)
        if closing is not None:
            yield mark.start(), mark.end(), closing.start(), closing.end()
        elif following == len(text):
            yield mark.start(), mark.end(), len(text), len(text)


def _closing_pattern(mark: re.Match[str]) -> re.Pattern[str]:
    if mark["tag"]:
        return re.compile(rf"<\\?/\s?{re.escape(mark['tag'])}\s?>", re.IGNORECASE)
    if mark["begun"]:
        return re.compile(rf"<\|end_of_{mark['begun']}\|>", re.IGNORECASE)
    if mark["started"]:
        return re.compile(rf"<\|END_{mark['started']}\|>", re.IGNORECASE)
    if mark["bracket"]:
        return re.compile(rf"\[/{mark['bracket']}\]", re.IGNORECASE)
    return re.compile(rf"\[END {mark['final']}\]", re.IGNORECASE)


def find_keys(text: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, value) of every answer in JSON or in a Python dictionary; a value that is null
    or an object is blank."""
    for pair in _PAIR.finditer(text):
        if pair["string"] is not None:
            value = _unescape(pair["string"][1:-1])
        elif pair["list"] is not None:
            items = (_EDGE_QUOTES.sub("", item.strip()) for item in pair["list"][1:-1].split(","))
            value = ", ".join(items)
        else:
            value = pair["number"] or pair["word"] or ""
        yield pair.start(), pair.end(), value


def _unescape(string: str) -> str:
    r"""A string's text. ``\f`` and the like stay: they begin a LaTeX command more often."""
    return re.sub(r"\\([\\\"'/])", r"\1", string)
